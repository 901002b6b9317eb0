"""Measurements: `python -m loadtest NAME`. Each ends with one line of JSON."""
