"""The mathematics of the method: statistics, aligner, scaler, loss."""
