"""Reward methods of the process family."""
