"""The target bank: teacher features of every view, computed once and read in every epoch."""
