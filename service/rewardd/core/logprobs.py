"""Reading probabilities out of log-probabilities."""

import math
from collections.abc import Sequence

from msgspec import Struct

from rewardd.core.preference import sigmoid


class LabelReading(Struct, frozen=True):
    """The first label's share of the two labels, and how much probability both had together.

    A small mass means that the model wanted to say something else, so the share says little.
    """

    probability: float
    mass: float


def read_labels(logprobs: Sequence[float]) -> LabelReading:
    """p = P(first) / (P(first) + P(second)); a ratio of logs, so tiny masses lose nothing."""
    first, second = logprobs
    return LabelReading(sigmoid(first - second), math.exp(first) + math.exp(second))
