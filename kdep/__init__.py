"""KDEP: distil a frozen teacher into a student backbone, without labels."""
