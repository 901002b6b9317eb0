"""Aggregations, with the worked example of the conventions: steps .95, .80, .60."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardd.core.aggregation import Aggregation, aggregate, min_is_last

STEPS = [0.95, 0.80, 0.60]
PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("how", "expected"),
    [("min", 0.6), ("prod", 0.456), ("last", 0.6), ("mean", 0.783333), ("max", 0.95)],
)
def test_the_worked_example(how: Aggregation, expected: float) -> None:
    assert aggregate(STEPS, how) == pytest.approx(expected, abs=1e-6)


def test_last_differs_from_min_when_the_worst_step_is_not_last() -> None:
    assert aggregate([0.1, 0.9], "last") == 0.9
    assert aggregate([0.1, 0.9], "min") == 0.1


def test_nothing_cannot_be_aggregated() -> None:
    with pytest.raises(ValueError, match="nothing"):
        aggregate([], "mean")


@given(PROBABILITIES)
def test_probabilities_keep_their_order(values: list[float]) -> None:
    low, high = aggregate(values, "min"), aggregate(values, "max")
    mean = aggregate(values, "mean")
    assert aggregate(values, "prod") <= low + 1e-12
    assert low - 1e-12 <= mean <= high + 1e-12
    assert mean == pytest.approx(math.fsum(values) / len(values))


def test_the_first_of_equal_minima_counts() -> None:
    assert min_is_last(STEPS)
    assert min_is_last([0.3])
    assert not min_is_last([0.1, 0.9])
    assert not min_is_last([0.5, 0.5])
