"""Pairwise preferences from scores."""

import math

import pytest

from rewardd.core.calls import Failure, Output, Pool, PoolOutput
from rewardd.errors import EngineError, InvalidRequest
from rewardd_types import GroupReward
from tests.methods.canned import group_of, never, run


def score(*scores: float | None, **params: float) -> GroupReward:
    """Each response's content is its index in `scores`; None fails."""

    def answer(call: Pool) -> Output | Failure:
        assert call.input.reply is not None
        value = scores[int(call.input.reply.content or "")]
        return Failure(EngineError("x").info) if value is None else PoolOutput(values=[[value]])

    return run("bradley_terry", group_of(*map(str, range(len(scores)))), answer, **params)


def test_the_matrix_of_three_scores() -> None:
    """Differences 0.8, 1.6 and 2.4: sigmoid .689974, .832018 and .916827."""
    reward = score(2.4, 1.6, 0.0)
    expected = [
        [0.5, 0.689974, 0.916827],
        [0.310026, 0.5, 0.832018],
        [0.083173, 0.167982, 0.5],
    ]
    assert reward.preference is not None
    for row, wanted in zip(reward.preference, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)
    assert [r.value for r in reward.rewards] == [2.4, 1.6, 0.0]
    rates = [r.metrics["win_rate"] for r in reward.rewards]
    assert rates == pytest.approx([0.803401, 0.571022, 0.125578], abs=1e-6)


def test_the_temperature_pulls_towards_a_half() -> None:
    matrix = score(2.4, 0.0, temperature=3.0).preference
    assert matrix is not None
    assert matrix[0][1] == pytest.approx(0.689974, abs=1e-6)


def test_extreme_scores_neither_overflow_nor_leave_the_unit_interval() -> None:
    assert score(1e5, -1e5).preference == [[0.5, 1.0], [0.0, 0.5]]


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_failed_response_is_null_in_the_matrix_and_spares_the_others(bad: float | None) -> None:
    reward = score(1.0, bad, 1.0)
    assert reward.preference == [[0.5, None, 0.5], [None, None, None], [0.5, None, 0.5]]
    assert [r.status for r in reward.rewards] == ["ok", "error", "ok"]
    assert [r.metrics["win_rate"] for r in reward.rewards] == [0.5, None, 0.5]


def test_one_response_has_no_win_rate() -> None:
    reward = score(1.0)
    assert reward.preference == [[0.5]]
    assert reward.rewards[0].metrics == {"win_rate": None}


def test_no_responses_have_an_empty_matrix() -> None:
    assert score() == GroupReward(rewards=[], preference=[])


def test_a_group_too_large_for_a_matrix_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 512"):
        run("bradley_terry", group_of(*["x"] * 513), never)


def test_a_head_with_several_labels_is_no_reward_head() -> None:
    reward = run("bradley_terry", group_of("a"), lambda call: PoolOutput(values=[[1.0, 2.0]]))
    assert reward.rewards[0].status == "error"
