"""Segmentation and detection on frozen feature maps: dense-linear, dense-knn and box."""
