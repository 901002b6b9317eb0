"""Preferences between responses: from scores to a matrix, from a matrix to win rates."""

import math
from collections.abc import Sequence
from typing import TypeAlias

Matrix: TypeAlias = list[list[float | None]]


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow at either end."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))


def preference_matrix(scores: Sequence[float | None], temperature: float) -> Matrix:
    """p[i][j] = sigmoid((s_i - s_j) / temperature); null where either has no score."""
    return [
        [
            None if one is None or other is None else sigmoid((one - other) / temperature)
            for other in scores
        ]
        for one in scores
    ]


def win_rates(matrix: Matrix) -> list[float | None]:
    """The mean of each row without its diagonal; null when the row has no opponent."""
    return [_mean([p for j, p in enumerate(row) if j != i]) for i, row in enumerate(matrix)]


def _mean(row: list[float | None]) -> float | None:
    known = [p for p in row if p is not None]
    return math.fsum(known) / len(known) if known else None
