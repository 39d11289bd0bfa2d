"""Verbs of the console command that only parse arguments and call kdep."""
