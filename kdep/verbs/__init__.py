"""Commands of `kdep` that only need the method."""
