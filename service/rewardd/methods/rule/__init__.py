"""Reward methods of the rule family."""
