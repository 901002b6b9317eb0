"""Methods that give what each door promises, for a service without models."""

from collections.abc import Iterable
from typing import Annotated, Any

from msgspec import Meta, Struct

from rewardd.core.calls import Pool, Score
from rewardd.core.chat import input_of
from rewardd.core.flow import Flow, ask
from rewardd.core.pointwise import pointwise
from rewardd.core.registry import MethodSpec, reward_method
from rewardd.methods.scalar.scalar import scalar
from rewardd_types import Group, GroupReward, Response, Reward, StepReward


class NoParams(Struct, frozen=True, forbid_unknown_fields=True):
    scale: Annotated[float, Meta(ge=0, le=10)] = 1.0


class MixParams(Struct, frozen=True, forbid_unknown_fields=True):
    models: list[str] = []


@pointwise
def _values(group: Group, response: Response, params: NoParams) -> Flow[Reward]:
    output = yield from ask(Pool("reward", input_of(group, response)))
    return Reward(value=output.values[0][0] * params.scale)


@reward_method("pairs", family="preference", gives=("preference", "value"), roles=("reward",))
def pairs(group: Group, params: NoParams) -> Flow[GroupReward]:
    rewards = (yield from _values(group, params)).rewards
    values = [reward.value or 0.0 for reward in rewards]
    matrix: list[list[float | None]] = [[a / (a + b + 1e-9) for b in values] for a in values]
    return GroupReward(rewards=rewards, preference=matrix)


@reward_method("stepwise", family="process", gives=("steps", "value"), roles=("reward",))
@pointwise
def stepwise(group: Group, response: Response, params: NoParams) -> Flow[Reward]:
    output = yield from ask(Pool("reward", input_of(group, response), "token_classify"))
    steps = [StepReward(value=row[0]) for row in output.values]
    return Reward(value=min(row[0] for row in output.values), steps=steps)


@reward_method(
    "verdict", family="judge", gives=("verdicts", "value"), roles=("judge",), reads=("rubric",)
)
@pointwise
def verdict(group: Group, response: Response, params: NoParams) -> Flow[Reward]:
    output = yield from ask(Pool("judge", input_of(group, response)))
    names = [criterion.id or criterion.text for criterion in group.rubric or []]
    components: dict[str, float | None] = dict.fromkeys(names, output.values[0][0])
    return Reward(value=output.values[0][0], components=components)


@reward_method("match", family="rule", reads=("reference",))
@pointwise
def match(group: Group, response: Response, params: NoParams) -> Flow[Reward]:
    yield from ()
    return Reward(value=float(str(group.reference) in (response.content or "")))


def _used(params: Any) -> Iterable[str]:
    return list(params.models)


@reward_method("mix", family="composed", uses=_used)
def mix(group: Group, params: MixParams) -> Flow[GroupReward]:
    output = yield from ask(Score(params.models[0], group))
    return output.reward


def specs() -> dict[str, MethodSpec]:
    marked: list[Any] = [scalar, pairs, stepwise, verdict, match, mix]
    found: list[MethodSpec] = [function.__reward_method__ for function in marked]
    return {spec.name: spec for spec in found}
