"""Networks without classifier: taps, feature maps, folding, a user's own networks."""
