"""Measure any backbone checkpoint on classification, segmentation and detection, into one scoreboard."""
