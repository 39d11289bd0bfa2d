"""What is wrong with a data set: defects, duplicates, leaks between splits, overlap with pretraining images."""
