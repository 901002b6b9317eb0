"""Weighted composition: a weighted sum of served models, with gates.

    value = sum_k w_k r_k      (rewards r_k of the named models; TRL's `reward_weights`)

A weight of 0 makes a model a component that is reported and does not count. A gate closes when its
model's reward is below `min` (process reward only for right outcomes: arXiv:2508.05170); the value
is then `gated_value`, which must be configured, because the service invents none.
"""

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from rewardd.core.calls import Score
from rewardd.core.flow import Failed, Flow, ask, attempt, gather
from rewardd.core.pointwise import failed_reward
from rewardd.core.registry import reward_method
from rewardd.errors import EngineError
from rewardd_types import ErrorInfo, Group, GroupReward, Response, Reward, Status
from rewardd_types.limits import Name, Weight


class Gate(Struct, frozen=True, forbid_unknown_fields=True):
    model: Name
    min: Weight


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """`models` are names of served models with their weights.

    With `missing` "skip", a model that gave a response no reward is left out of its sum, which is
    not rescaled; a gate's model is never skipped.
    """

    models: Annotated[dict[Name, Weight], Meta(min_length=1, max_length=16)]
    gates: Annotated[list[Gate], Meta(max_length=16)] = []
    gated_value: Weight | None = None
    missing: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        unknown = [gate.model for gate in self.gates if gate.model not in self.models]
        if unknown:
            raise ValueError(f"the gate's model `{unknown[0]}` is not among `models`")
        if self.gates and self.gated_value is None:
            raise ValueError("say in `gated_value` what a closed gate is worth")


def _uses(params: Params) -> list[str]:
    return list(params.models)


@reward_method(
    "weighted",
    family="composed",
    paper="arXiv:2508.05170",
    uses=_uses,
    metrics=("gated", "num_missing"),
)
def weighted(group: Group, params: Params) -> Flow[GroupReward]:
    """The weighted sum of other models' rewards, and each of them as a component.

    A response that a model failed to reward gets that model's error, the first in order. Step
    rewards and preferences of the models are not passed on.
    """
    names = list(params.models)
    asked = [attempt(ask(Score(name, group))) for name in names]
    outcomes = yield from gather(asked)
    columns = [
        [failed_reward(response, outcome.error) for response in group.responses]
        if isinstance(outcome, Failed)
        else _checked(name, outcome.reward.rewards, group)
        for name, outcome in zip(names, outcomes, strict=True)
    ]
    rewards = [
        _combine(response, dict(zip(names, row, strict=True)), params)
        for response, *row in zip(group.responses, *columns, strict=True)
    ]
    return GroupReward(rewards=rewards)


def _checked(name: str, rewards: list[Reward], group: Group) -> list[Reward]:
    if len(rewards) != len(group.responses):
        raise EngineError(f"`{name}` gave {len(rewards)} rewards of {len(group.responses)}")
    return rewards


def _combine(response: Response, parts: dict[str, Reward], params: Params) -> Reward:
    """One response's reward from its reward by each model."""
    values = {name: part.value for name, part in parts.items() if part.value is not None}
    lost = [name for name in parts if name not in values]
    reward = Reward(
        id=response.id,
        components={name: values.get(name) for name in parts},
        metrics={"gated": None, "num_missing": float(len(lost))},
        seen=[seen for part in parts.values() for seen in part.seen or []] or None,
    )
    fatal = [name for name in lost if not values or _needed(name, params)]
    if fatal:
        status, error = _failure(fatal[0], parts[fatal[0]])
        return replace(reward, status=status, error=error)
    gated = any(values[gate.model] < gate.min for gate in params.gates)
    terms = [params.models[name] * value for name, value in values.items()]
    return replace(
        reward,
        value=params.gated_value if gated else math.fsum(terms),
        metrics={**reward.metrics, "gated": float(gated)},
    )


def _failure(name: str, part: Reward) -> tuple[Status, ErrorInfo]:
    """Why the model gave no value, with the model's name before its own words."""
    error = part.error or EngineError("gave no value and no reason").info
    status: Status = "error" if part.status == "ok" else part.status
    return status, replace(error, message=f"`{name}`: {error.message}")


def _needed(name: str, params: Params) -> bool:
    return params.missing == "error" or any(gate.model == name for gate in params.gates)
