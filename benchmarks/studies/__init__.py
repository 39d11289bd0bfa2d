"""Studies: arms x values x seeds of pretraining runs, scored on the same tasks."""
