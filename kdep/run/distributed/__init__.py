"""The processes of one run: what they agree on, how long they wait, BatchNorm over the images of all."""
