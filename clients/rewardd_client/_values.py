"""Rewards as numbers, for code that can use nothing else."""

from typing import Literal, overload

from rewardd_client._errors import RewardError
from rewardd_types import GroupReward, Reward


@overload
def values(group: GroupReward, on_error: Literal["raise"] = "raise") -> list[float]: ...


@overload
def values(group: GroupReward, on_error: Literal["none"]) -> list[float | None]: ...


def values(
    group: GroupReward, on_error: Literal["raise", "none"] = "raise"
) -> list[float] | list[float | None]:
    """The value of each reward, in order. A failure is never a reward of 0.

    A reward without a value raises RewardError; with `on_error="none"` it is None, for trainers
    that drop such a sample themselves.
    """
    if on_error == "none":
        return [_value(reward) for reward in group.rewards]
    if on_error != "raise":
        raise ValueError(f'`on_error` is "raise" or "none", not {on_error!r}')
    return [_value_or_raise(index, reward) for index, reward in enumerate(group.rewards)]


def _value(reward: Reward) -> float | None:
    return reward.value if reward.status == "ok" else None


def _value_or_raise(index: int, reward: Reward) -> float:
    value = _value(reward)
    if value is None:
        raise RewardError(index, reward)
    return value
