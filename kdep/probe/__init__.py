"""Probes that pretraining and the benchmarks share: nearest neighbours of images and of positions on masks."""
