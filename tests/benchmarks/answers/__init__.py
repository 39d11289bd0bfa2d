"""Tests of answers per test image."""
