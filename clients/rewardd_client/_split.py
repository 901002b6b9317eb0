"""Cutting a request that is too large in two, and joining what came back. Pure.

Groups are always independent. The responses of one group are so only behind the pointwise doors:
a comparison needs all of them at once.
"""

import re
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from rewardd_client._errors import MalformedAnswer
from rewardd_types import ErrorInfo, GroupReward, Receipt, Reward, RewardRequest
from rewardd_types.limits import MAX_GROUPS, MAX_RESPONSES

Door = Literal["score", "compare", "steps", "rubric"]

POINTWISE_DOORS: frozenset[Door] = frozenset({"score", "steps", "rubric"})


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a request, and where it starts in the whole: its first group or first response."""

    request: RewardRequest
    first_group: int = 0
    first_response: int = 0

    def path_in_whole(self, path: str | None) -> str | None:
        """The path of a field of this part, as the caller counts groups and responses."""
        if path is None:
            return None
        path = _shift(path, "groups", self.first_group)
        return _shift(path, "responses", self.first_response)


def halves(door: Door, request: RewardRequest) -> tuple[Part, Part] | None:
    """The request in two parts, in order, or None where it cannot be cut."""
    if len(request.groups) > 1:
        return _halves_by_groups(request)
    if door in POINTWISE_DOORS and request.groups and len(request.groups[0].responses) > 1:
        return _halves_by_responses(request)
    return None


def has_too_many(door: Door, request: RewardRequest) -> bool:
    """Whether a list that can be cut is longer than the server reads, whatever its bytes."""
    if len(request.groups) > MAX_GROUPS:
        return True
    longest = max((len(group.responses) for group in request.groups), default=0)
    return door in POINTWISE_DOORS and longest > MAX_RESPONSES


def join(
    first: Part, first_groups: list[GroupReward], second: Part, second_groups: list[GroupReward]
) -> list[GroupReward]:
    """The answers of two halves as the answer to the whole."""
    left = [_in_whole(first, group) for group in first_groups]
    right = [_in_whole(second, group) for group in second_groups]
    if second.first_response:
        return [_join_group(left[0], right[0])]
    return left + right


def _halves_by_groups(request: RewardRequest) -> tuple[Part, Part]:
    middle = len(request.groups) // 2
    return (
        Part(replace(request, groups=request.groups[:middle])),
        Part(replace(request, groups=request.groups[middle:]), first_group=middle),
    )


def _halves_by_responses(request: RewardRequest) -> tuple[Part, Part]:
    (group,) = request.groups
    middle = len(group.responses) // 2
    before = replace(group, responses=group.responses[:middle])
    after = replace(group, responses=group.responses[middle:])
    return (
        Part(replace(request, groups=[before])),
        Part(replace(request, groups=[after]), first_response=middle),
    )


def _in_whole(part: Part, group: GroupReward) -> GroupReward:
    return replace(group, rewards=[_reward_in_whole(part, reward) for reward in group.rewards])


def _reward_in_whole(part: Part, reward: Reward) -> Reward:
    if reward.error is None or reward.error.path is None:
        return reward
    error: ErrorInfo = replace(reward.error, path=part.path_in_whole(reward.error.path))
    return replace(reward, error=error)


def _join_group(left: GroupReward, right: GroupReward) -> GroupReward:
    return GroupReward(
        rewards=left.rewards + right.rewards,
        id=left.id,
        status=left.status if left.status == right.status else "partial",
        receipts=_join_receipts(left.receipts, right.receipts),
    )


def _join_receipts(left: list[Receipt], right: list[Receipt]) -> list[Receipt]:
    joined = {(receipt.role, receipt.pool): receipt for receipt in left}
    for receipt in right:
        key = receipt.role, receipt.pool
        joined[key] = _sum(joined[key], receipt) if key in joined else receipt
    return list(joined.values())


def _sum(left: Receipt, right: Receipt) -> Receipt:
    if (left.model, left.revision) != (right.model, right.revision):
        # The service promises that one group never mixes weights; a split must not break that.
        raise MalformedAnswer(
            f"the weights of pool {left.pool!r} changed from {left.revision!r} to"
            f" {right.revision!r} between the halves of one group: ask again"
        )
    return replace(
        left,
        bos_count=max(left.bos_count, right.bos_count),
        tokens_total=left.tokens_total + right.tokens_total,
        tokens_computed=left.tokens_computed + right.tokens_computed,
        tokens_reused=left.tokens_reused + right.tokens_reused,
        truncated=left.truncated or right.truncated,
        tokens_dropped=left.tokens_dropped + right.tokens_dropped,
        queue_ms=left.queue_ms + right.queue_ms,
        compute_ms=left.compute_ms + right.compute_ms,
    )


def _shift(path: str, list_name: str, offset: int) -> str:
    """`path` with the first index into `list_name` moved up by `offset`."""
    return re.sub(
        rf"\b{list_name}\[(\d+)\]",
        lambda found: f"{list_name}[{int(found[1]) + offset}]",
        path,
        count=1,
    )
