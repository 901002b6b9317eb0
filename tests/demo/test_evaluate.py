"""The figures, on samples small enough to count by hand."""

import math

import pytest

from rewardd.demo.data import parse
from rewardd.demo.evaluate import Sampled, figures, predicted_error

PROBLEM = parse("(1 + 2) * 3")
RIGHT = "1 + 2 = 3\n3 * 3 = 9\nanswer: 9"
SLIP = "1 + 2 = 4\n4 * 3 = 12\nanswer: 12"
OTHER_SLIP = "1 + 2 = 3\n3 * 3 = 6\nanswer: 6"
GOOD, BAD = (0.9, 0.8, 0.7), (0.9, 0.4, 0.3)


def sampled(*texts: str, outcome: list[float], steps: list[tuple[float, ...]]) -> Sampled:
    return Sampled(PROBLEM, texts, RIGHT, outcome, steps)


def test_figures_of_two_problems_counted_by_hand() -> None:
    # Two wrong ones agree, so the majority errs; the reward picks the right one.
    first = sampled(
        RIGHT, SLIP, SLIP, OTHER_SLIP, outcome=[2.0, 1.0, 0.0, 2.0],
        steps=[GOOD, BAD, (0.1, 0.9, 0.9), BAD],
    )  # fmt: skip
    second = sampled(
        RIGHT, RIGHT, SLIP, RIGHT, outcome=[0.0, 0.0, 1.0, 3.0], steps=[GOOD, GOOD, BAD, BAD]
    )
    found = figures([first, second])
    assert found["problems"] == 2
    assert found["single_accuracy"] == (1 / 4 + 3 / 4) / 2
    assert found["greedy_accuracy"] == 1
    assert found["majority_16_accuracy"] == 0.5
    assert found["pass_at_16"] == 1
    # first: 2 against 1, 0 and (a tie) 2; second: 0, 0 and 3 against 1.
    assert found["pair_accuracy"] == pytest.approx((2.5 / 3 + 1 / 3) / 2)
    # The first of equals is taken: right in both.
    assert found["best_of_16_accuracy"] == 1
    assert found["gap_closed"] == 1
    # Wrong chains in order: line 0 missed (said 1), found (0), OTHER_SLIP found (1), missed.
    assert found["first_error_wrong_chains"] == 2 / 4
    assert found["first_error_right_chains"] == 3 / 4
    assert found["first_error_accuracy"] == (2 / 4 + 3 / 4) / 2


def test_as_many_right_chains_as_wrong_ones_count() -> None:
    steps = [GOOD, GOOD, BAD, (0.1,) * 3]
    one = sampled(RIGHT, RIGHT, RIGHT, SLIP, outcome=[0.0] * 4, steps=steps)
    found = figures([one])
    assert found["first_error_right_chains"] == 1
    assert found["first_error_wrong_chains"] == 1


def test_errors_that_cancel_count_as_wrong_chains() -> None:
    lucky = "1 + 2 = 3\n3 * 3 = 8\nanswer: 9"
    one = sampled(lucky, RIGHT, outcome=[0.0, 0.0], steps=[BAD, GOOD])
    found = figures([one])
    assert found["single_accuracy"] == 1
    assert found["first_error_wrong_chains"] == 1


def test_what_cannot_be_measured_is_not_a_number() -> None:
    found = figures([sampled(RIGHT, outcome=[0.0], steps=[GOOD])])
    assert math.isnan(found["pair_accuracy"])
    assert math.isnan(found["gap_closed"])
    assert math.isnan(found["first_error_accuracy"])


@pytest.mark.parametrize("outcome", [[None], []])
def test_a_missing_reward_is_refused(outcome: list[float | None]) -> None:
    with pytest.raises(ValueError, match="missing"):
        Sampled(PROBLEM, [RIGHT], RIGHT, outcome, [GOOD])


def test_a_reward_at_the_threshold_is_right() -> None:
    assert predicted_error([0.5, 0.49, 0.1]) == 1
    assert predicted_error([0.5, 0.5]) is None
