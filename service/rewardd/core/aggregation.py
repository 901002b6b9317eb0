"""From the rewards of the steps to one reward of the response.

Which aggregation is right depends on how the model's step labels were made, so it belongs to the
model's configuration: `min` for labels that say whether a step is right (VersaPRM, PRM800K), `last`
for Monte-Carlo values, `prod` where steps are probabilities of being right, `mean` (RLHFlow).
"""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

Aggregation: TypeAlias = Literal["min", "prod", "last", "mean", "max"]


def aggregate(values: Sequence[float], how: Aggregation) -> float:
    """One number from at least one."""
    if not values:
        raise ValueError("there is nothing to aggregate")
    match how:
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "prod":
            return math.prod(values)
        case "last":
            return values[-1]
        case "mean":
            return math.fsum(values) / len(values)


def min_is_last(values: Sequence[float]) -> bool:
    """Whether the (first) smallest value is the last one."""
    return min(range(len(values)), key=values.__getitem__) == len(values) - 1
