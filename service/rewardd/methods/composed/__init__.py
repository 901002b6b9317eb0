"""Reward methods of the composed family."""
