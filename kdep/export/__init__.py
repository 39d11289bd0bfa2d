"""Exports: tensor names of other libraries, code to paste, audit."""
