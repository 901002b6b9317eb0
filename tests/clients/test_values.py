"""Rewards as numbers: a failure is never a reward of 0."""

from typing import Literal

import pytest

from rewardd_client import GroupReward, MalformedAnswer, Reward, RewardError, values
from rewardd_client._flow import decode
from rewardd_types import ErrorInfo

FAILED = Reward(id="r1", status="error", error=ErrorInfo("non_finite", "the model gave NaN", False))
UNSCORABLE = Reward(status="unscorable")
MIXED = GroupReward([Reward(value=0.0), FAILED, UNSCORABLE])


def test_values_come_in_order() -> None:
    assert values(GroupReward([Reward(value=0.5), Reward(value=-2.0)])) == [0.5, -2.0]
    assert values(GroupReward([])) == []


def test_a_failure_raises_and_says_why() -> None:
    with pytest.raises(RewardError) as raised:
        values(MIXED)
    assert raised.value.index == 1
    assert raised.value.reward is FAILED
    assert str(raised.value) == (
        "response 1 has no reward (error): the model gave NaN [non_finite]"
    )


def test_a_failure_may_be_none() -> None:
    assert values(MIXED, on_error="none") == [0.0, None, None]


def test_a_reward_that_claims_ok_without_a_value_has_none() -> None:
    with pytest.raises(RewardError):
        values(GroupReward([Reward()]))


@pytest.mark.parametrize("status", ["error", "unscorable"])
def test_a_failure_cannot_be_a_number(status: Literal["error", "unscorable"]) -> None:
    with pytest.raises(ValueError, match=f"`{status}` has no value"):
        Reward(value=0.0, status=status)
    with pytest.raises(MalformedAnswer, match="has no value"):
        decode(f'{{"value": 0.0, "status": "{status}"}}'.encode(), Reward)


def test_no_third_way() -> None:
    with pytest.raises(ValueError, match="on_error"):
        values(MIXED, on_error="zero")  # type: ignore[call-overload]
