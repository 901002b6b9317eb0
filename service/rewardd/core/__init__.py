"""The pure core: no async, no I/O, no torch, no clock, no global random."""
