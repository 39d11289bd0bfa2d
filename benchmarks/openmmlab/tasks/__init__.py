"""The tasks that train in a toolbox, segmentation and detection: their data, scores and sheets of pictures."""
