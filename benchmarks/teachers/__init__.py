"""Statistics and ranking of teachers: `kdep statistics`."""
