"""Labelled data sets: cards, readers, checks, preparation, overlap."""
