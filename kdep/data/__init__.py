"""Pretraining images: sources, decoding, deterministic views."""
