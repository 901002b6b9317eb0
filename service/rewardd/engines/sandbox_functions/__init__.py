"""Functions a sandbox child offers by name: one file each, with a function `run`."""
