"""The target bank: teacher targets computed once, read in every epoch."""
