"""Recipes, tasks, suites and studies; installed as `kdep_configs`."""
