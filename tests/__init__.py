"""Tests: each proves the sentence that is its name."""
