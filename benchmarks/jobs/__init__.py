"""Cells of a suite: plan, run, lock, retry."""
