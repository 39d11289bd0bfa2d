"""Segmentation and detection in mmsegmentation and mmdetection: the only folder that imports them."""
