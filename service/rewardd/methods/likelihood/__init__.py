"""Reward methods of the likelihood family."""
