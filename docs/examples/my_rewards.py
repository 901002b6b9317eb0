"""Rewards of your own: copy this file, change it, and serve it.

    rewardd serve --methods my_rewards.py

It runs in a child process and never in the server. What it prints goes nowhere.
"""

import re
from collections import Counter
from typing import Annotated

from msgspec import Meta, Struct

from rewardd.core.chat import response_text
from rewardd.core.flow import Flow
from rewardd.core.registry import reward_method
from rewardd_types import Group, GroupReward, Response, Reward


def exact(prompt: str, response: str, reference: str | list[str] | None = None) -> float | None:
    """1 when the response's last number is the reference; no reward where none is known."""
    if not isinstance(reference, str):
        return None  # nothing to score: the response is `unscorable`, not 0
    numbers = re.findall(r"-?\d+", response)
    return float(bool(numbers) and numbers[-1] == reference)


def brief(prompt: str, response: str, max_words: int = 50, **extra: object) -> float:
    """1 up to `max_words` words, then falling to 0; a caller sets it in `extra`."""
    words = len(response.split())
    return max(0.0, min(1.0, 2.0 - words / max_words))


# Each becomes a model of its name. A file with a single function may call it `reward` instead.
REWARDS = {"exact": exact, "brief": brief}


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """Answers shorter than `min_chars` agree with nobody."""

    min_chars: Annotated[int, Meta(ge=0, le=10_000)] = 1


@reward_method("agreement", family="user", metrics=("votes",))
def agreement(group: Group, params: Params) -> Flow[GroupReward]:
    """The share of the group's responses that end in the same line: a method sees the whole group.

    A method with `roles` asks models as well: `output = yield from ask(Pool("reward", ...))`.
    """
    yield from ()  # a flow is a generator, also when it asks nothing
    last = [(response_text(r).strip().splitlines() or [""])[-1] for r in group.responses]
    votes = Counter(line for line in last if len(line) >= params.min_chars)
    return GroupReward(
        rewards=[
            _reward(response, votes[line], len(last))
            for response, line in zip(group.responses, last, strict=True)
        ]
    )


def _reward(response: Response, votes: int, count: int) -> Reward:
    return Reward(id=response.id, value=votes / count, metrics={"votes": float(votes)})
