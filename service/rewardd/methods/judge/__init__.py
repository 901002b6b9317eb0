"""Reward methods of the judge family."""
