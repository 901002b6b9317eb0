"""Certainty over the whole vocabulary."""

import math
from typing import Any

import pytest

from rewardd.core.calls import Logprobs, LogprobsOutput
from rewardd_types import Group, Response, Reward
from tests.methods.canned import never, run

SHARP, UNIFORM = [0.7, 0.1, 0.1, 0.1], [0.25] * 4


def policy(*distributions: list[float]) -> Any:
    means = [math.fsum(map(math.log, d)) / len(d) for d in distributions]
    size = len(distributions[0]) if distributions else 0
    return lambda call: LogprobsOutput(over_vocabulary=means, vocabulary=size)


def reward_of(answer: Any, response: Response | None = None) -> Reward:
    group = Group(prompt="q", responses=[response or Response(content="a b")])
    return run("self_certainty", group, answer).rewards[0]


def test_the_worked_example() -> None:
    """V = 4, positions [.7, .1, .1, .1] and uniform: [0.429813, 0], SC 0.214907."""
    reward = reward_of(policy(SHARP, UNIFORM))
    assert reward.value == pytest.approx(0.214907, abs=1e-6)
    assert reward.metrics == {"num_tokens": 2.0}
    assert reward_of(policy(SHARP)).value == pytest.approx(0.429813, abs=1e-6)


def test_knowing_nothing_is_nought() -> None:
    assert reward_of(policy(UNIFORM, UNIFORM)).value == pytest.approx(0.0, abs=1e-12)


def test_it_is_the_divergence_of_the_uniform_distribution() -> None:
    divergence = sum(0.25 * math.log(0.25 / p) for p in SHARP)
    assert reward_of(policy(SHARP)).value == pytest.approx(divergence)


def test_the_whole_vocabulary_is_asked_for() -> None:
    asked: list[Logprobs] = []

    def answer(call: Logprobs) -> LogprobsOutput:
        asked.append(call)
        return LogprobsOutput(over_vocabulary=[-2.0], vocabulary=4)

    reward_of(answer)
    assert [(call.role, call.over_vocabulary) for call in asked] == [("policy", True)]


def test_chosen_token_log_probabilities_are_refused_with_the_reason() -> None:
    reward = reward_of(never, Response(content="a", logprobs={"policy": [-0.5]}))
    assert reward.error is not None
    assert reward.error.code == "invalid_request"
    assert "whole vocabulary" in reward.error.message
    assert reward.value is None


@pytest.mark.parametrize(
    "response",
    [
        Response(content=""),
        Response(text=""),
        Response(token_ids=[]),
        Response(steps=[]),
        Response(steps=[""]),
    ],
)
def test_an_empty_reply_is_unscorable(response: Response) -> None:
    assert reward_of(never, response).status == "unscorable"


def test_a_reply_that_renders_to_no_tokens_is_unscorable() -> None:
    assert reward_of(policy()).status == "unscorable"


def test_an_engine_without_a_vocabulary_is_an_error() -> None:
    answer = lambda call: LogprobsOutput(over_vocabulary=[-2.0])  # noqa: E731
    assert reward_of(answer).status == "error"
