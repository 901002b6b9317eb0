"""rewardd: a reward server for reinforcement learning."""

__version__ = "0.1.0"
