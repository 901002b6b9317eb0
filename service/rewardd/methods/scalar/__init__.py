"""Reward methods of the scalar family."""
