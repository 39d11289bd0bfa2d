"""One reader per family of layouts, shared by training, `kdep data check` and `kdep data overlap`."""
