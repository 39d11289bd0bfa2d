"""Is a difference real: intervals over images and runs, comparison of checkpoints."""
