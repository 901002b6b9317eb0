"""Process reward: a score for each reasoning step, read at the step tags of a token classifier.

The model reads the steps one by one, each followed by its tag token, and classifies every tag
(Lightman et al., arXiv:2305.20050; as published in Qwen2.5-Math-PRM, arXiv:2501.07301):

    step_k = softmax(logits at tag k)[positive]        value = aggregation(step_1 .. step_K)

A head with one logit gives step_k = sigmoid(logit) (Skywork-o1-Open-PRM).
"""

import math
from typing import Annotated

from msgspec import Meta, Struct

from rewardd.core.aggregation import Aggregation, aggregate, min_is_last
from rewardd.core.calls import Input, Pool, PoolOutput, Reply
from rewardd.core.chat import prompt_of
from rewardd.core.flow import Flow, ask
from rewardd.core.pointwise import pointwise
from rewardd.core.preference import sigmoid
from rewardd.core.registry import reward_method
from rewardd.core.steps import Step, locate_steps, split_steps
from rewardd.errors import EngineError, InvalidRequest, Unscorable
from rewardd_types import Group, Response, Reward, StepReward


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """`separator` cuts a response without `steps`; `positive` is the class that means right."""

    aggregation: Aggregation = "min"
    separator: Annotated[str, Meta(min_length=1, max_length=64)] = "\n"
    positive: Annotated[int, Meta(ge=0, le=1_000)] = 1


@reward_method(
    "prm",
    family="process",
    roles=("process",),
    gives=("value", "steps"),
    paper="arXiv:2305.20050",
    metrics=("num_steps", "min_last"),
)
@pointwise
def prm(group: Group, response: Response, params: Params) -> Flow[Reward]:
    """The probability that each step is right, and their aggregate.

    Steps are the response's `steps`, else its content cut at `separator`; the separator is not
    sent, since the server renders each step followed by the model's own tag. The metric `min_last`
    is 1 when the worst step is the last: a high share means the model judges outcomes, not steps.
    """
    steps = _steps(response, params.separator)
    reply = Reply(steps=[step.text for step in steps])
    output = yield from ask(Pool("process", Input(prompt_of(group), reply), task="token_classify"))
    if len(output.values) != len(steps):
        raise EngineError(f"the model read {len(output.values)} tags for {len(steps)} steps")
    values = [_probability(row, params.positive) for row in output.values]
    return Reward(
        value=aggregate(values, params.aggregation),
        steps=_step_rewards(steps, values, output),
        metrics={"num_steps": float(len(values)), "min_last": float(min_is_last(values))},
    )


def _steps(response: Response, separator: str) -> list[Step]:
    content = response.content if response.content is not None else response.text
    if response.steps is not None:
        steps = locate_steps(response.steps, content)
    elif content is not None:
        steps = split_steps(content, separator)
    else:
        raise InvalidRequest("step rewards need `content`, `text` or `steps`")
    if not any(step.text.strip() for step in steps):
        raise Unscorable("the response has no steps")
    return steps


def _probability(logits: list[float], positive: int) -> float:
    if len(logits) == 1:
        return sigmoid(logits[0])
    if positive >= len(logits):
        raise InvalidRequest(f"the head gives {len(logits)} classes", path="$.params.positive")
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    return weights[positive] / math.fsum(weights)


def _step_rewards(steps: list[Step], values: list[float], output: PoolOutput) -> list[StepReward]:
    tags: list[int | None] = [*output.positions] or [None] * len(steps)
    return [
        StepReward(value=value, start=step.start, end=step.end, token_end=tag)
        for step, value, tag in zip(steps, values, tags, strict=True)
    ]
