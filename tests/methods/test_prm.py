"""Step rewards at step tags."""

import math
from typing import Any

import pytest

from rewardd.core.calls import Pool, PoolOutput
from rewardd_types import Group, Response, Reward, StepReward
from tests.methods.canned import group_of, never, run

CONTENT = "2+3=5\n\n5*4=20\n20-1=18"


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def answers(*probabilities: float) -> Any:
    """A model with two classes that gives these probabilities of `right`."""
    rows = [[0.0, logit(p)] for p in probabilities]
    return lambda call: PoolOutput(values=rows, positions=[*range(10, 10 + len(rows))])


def reward_of(response: Response, answer: Any, **params: Any) -> Reward:
    return run("prm", Group(prompt="q", responses=[response]), answer, **params).rewards[0]


def test_the_published_logits() -> None:
    """Logits [-1, 2] are .952574 (Qwen2.5-Math-PRM), value .8 is .689974 (Skywork-o1)."""
    two = reward_of(Response(content="a"), lambda call: PoolOutput(values=[[-1.0, 2.0]]))
    one = reward_of(Response(content="a"), lambda call: PoolOutput(values=[[0.8]]))
    assert two.value == pytest.approx(0.952574, abs=1e-6)
    assert one.value == pytest.approx(0.689974, abs=1e-6)


def test_the_class_that_means_right_is_a_parameter() -> None:
    """VersaPRM reads `plus` at index 1, Math-Shepherd at index 0: .832018."""
    reward = reward_of(
        Response(content="a"), lambda call: PoolOutput(values=[[1.2, -0.4]]), positive=0
    )
    assert reward.value == pytest.approx(0.832018, abs=1e-6)


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [("min", 0.6), ("prod", 0.456), ("last", 0.6), ("mean", 0.783333), ("max", 0.95)],
)
def test_the_worked_aggregations(aggregation: str, value: float) -> None:
    answer = answers(0.95, 0.80, 0.60)
    reward = reward_of(Response(content=CONTENT), answer, aggregation=aggregation)
    assert reward.value == pytest.approx(value, abs=1e-6)
    assert reward.metrics == {"num_steps": 3.0, "min_last": 1.0}


def test_steps_are_lines_sent_without_separator_and_blank_lines_are_none() -> None:
    asked: list[Pool] = []

    def answer(call: Pool) -> PoolOutput:
        asked.append(call)
        return PoolOutput(values=[[0.0, 0.0]] * 3, positions=[7, 12, 20])

    reward = reward_of(Response(content=CONTENT), answer)
    assert len(asked) == 1
    assert asked[0].task == "token_classify"
    assert asked[0].input.reply is not None
    assert asked[0].input.reply.steps == ["2+3=5", "5*4=20", "20-1=18"]
    assert asked[0].input.reply.content is None
    assert reward.steps == [
        StepReward(0.5, 0, 5, 7),
        StepReward(0.5, 7, 13, 12),
        StepReward(0.5, 14, 21, 20),
    ]


def test_steps_of_the_caller_win_over_the_separator() -> None:
    alone = reward_of(Response(steps=["a\nb", "c"]), answers(0.2, 0.9))
    beside = reward_of(Response(content="a\nb c", steps=["a\nb", "c"]), answers(0.2, 0.9))
    assert alone.steps is not None
    assert beside.steps is not None
    assert [(s.start, s.end) for s in alone.steps] == [(None, None)] * 2
    assert [(s.start, s.end) for s in beside.steps] == [(0, 3), (4, 5)]
    assert alone.metrics == {"num_steps": 2.0, "min_last": 0.0}


def test_the_separator_is_a_parameter() -> None:
    reward = reward_of(Response(content="a\nb\n\nc"), answers(0.2, 0.9), separator="\n\n")
    assert reward.metrics["num_steps"] == 2.0


@pytest.mark.parametrize("response", [Response(content=" \n"), Response(steps=[])])
def test_a_response_without_steps_is_unscorable(response: Response) -> None:
    reward = reward_of(response, never)
    assert (reward.value, reward.status) == (None, "unscorable")
    assert reward.metrics == {"num_steps": None, "min_last": None}


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_tag_too_many_or_too_few_is_an_error(count: int) -> None:
    reward = reward_of(Response(content=CONTENT), answers(*[0.5] * count))
    assert reward.error is not None
    assert reward.error.code == "engine_error"
    assert reward.value is None


def test_token_ids_cannot_be_cut_into_steps() -> None:
    reward = reward_of(Response(token_ids=[1, 2]), never)
    assert reward.error is not None
    assert reward.error.code == "invalid_request"


def test_huge_logits_do_not_overflow() -> None:
    answer = lambda call: PoolOutput(values=[[-1e4, 1e4]])  # noqa: E731
    assert reward_of(Response(content="a"), answer).value == 1.0


def test_the_responses_of_a_group_are_asked_side_by_side() -> None:
    rewards = run("prm", group_of("a", "b"), answers(0.25)).rewards
    assert [reward.value for reward in rewards] == pytest.approx([0.25, 0.25])
