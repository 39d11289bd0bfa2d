"""What a checkpoint answered on every test image, and the metrics of any resample of these images."""
