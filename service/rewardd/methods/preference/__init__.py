"""Reward methods of the preference family."""
