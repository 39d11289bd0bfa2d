"""What a cheap column is worth: how well it orders checkpoints as an expensive one does."""
