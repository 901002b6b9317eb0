"""A user's own rewards as methods: what `--methods FILE.py` adds to the register.

The file never runs in the server. A child is asked what the file holds, and each reward becomes a
method whose flow sends `Execute` calls to the role `user`, a sandbox pool with that `methods_file`.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from rewardd.core.calls import Call, Execute, Failure, Output
from rewardd.core.chat import prompt_text, response_text
from rewardd.core.flow import Failed, Flow, ask, attempt, gather
from rewardd.core.pointwise import pointwise
from rewardd.core.registry import Method, MethodSpec
from rewardd.engines.sandbox import SandboxEngine
from rewardd.engines.sandbox_user import RelayedCall
from rewardd.engines.sandbox_wire import UserFunction
from rewardd.errors import EngineError, MethodFailed, StartRefused, to_info
from rewardd_types import Group, GroupReward, Response, Reward

ROLE = "user"


class PlainParams(Struct, frozen=True, forbid_unknown_fields=True):
    """A call that takes longer than `timeout_s` is killed and is an error."""

    timeout_s: Annotated[float, Meta(gt=0.0, le=600.0)] = 10.0


async def load_user_methods(engine: SandboxEngine) -> list[MethodSpec]:
    """One method a reward of the engine's file; StartRefused when the file cannot be used."""
    try:
        functions = await engine.describe()
    except EngineError as error:
        raise StartRefused(f"{engine.methods_file}: {error.message}") from error
    return [_spec(function, engine.card.revision) for function in functions]


def _spec(function: UserFunction, revision: str) -> MethodSpec:
    plain = function.plain
    return MethodSpec(
        name=function.name,
        family="user",
        function=_plain_method(function.name) if plain else _relayed_method(function),
        params=PlainParams if plain else _params_type(function),
        roles=(ROLE, *(role for role in function.roles if role != ROLE)),
        reads=tuple(function.reads),
        gives=msgspec.convert(function.gives, tuple[Any, ...]),
        paper=function.paper,
        summary=function.summary,
        revision=revision,
        uses=lambda params: (),
        metrics=tuple(function.metrics),
    )


def _plain_method(name: str) -> Method:
    @pointwise
    def plain(group: Group, response: Response, params: PlainParams) -> Flow[Reward]:
        arguments = {
            "prompt": prompt_text(group),
            "response": response_text(response),
            "reference": group.reference,
            "extra": {**(group.extra or {}), **(response.extra or {})},
        }
        output = yield from ask(Execute(ROLE, f"user:{name}", arguments, params.timeout_s))
        return Reward(value=msgspec.convert(output.result, float))

    return plain


def _params_type(function: UserFunction) -> type[Struct]:
    """The fields by name; the child, which has the real type, validates what they hold."""
    fields: list[Any] = [(name, Any) for name in function.required]
    fields += [(name, Any, _always(value)) for name, value in function.params.items()]
    return msgspec.defstruct(
        "Params", fields, frozen=True, forbid_unknown_fields=True, kw_only=True
    )


def _always(value: Any) -> Any:
    return msgspec.field(default_factory=lambda: value)


class _Leg(Struct, frozen=True):
    """What a generator in the child came to: its result, or calls to be answered."""

    result: GroupReward | None = None
    session: str = ""
    calls: list[tuple[tuple[int, ...], RelayedCall]] = []


def _relayed_method(function: UserFunction) -> Method:
    """A flow that asks on behalf of a generator in the child, leg by leg."""
    roles = frozenset(function.roles)

    def relayed(group: Group, params: Struct) -> Flow[GroupReward]:
        arguments = {"group": msgspec.to_builtins(group), "params": msgspec.to_builtins(params)}
        leg = yield from _advance(f"user:{function.name}:start", arguments)
        while leg.result is None:
            asked = [_outcome(call, roles) for _, call in leg.calls]
            outcomes = yield from gather(asked)
            paths = [path for path, _ in leg.calls]
            answers = msgspec.to_builtins([*zip(paths, outcomes, strict=True)])
            arguments = {"session": leg.session, "outcomes": answers}
            leg = yield from _advance(f"user:{function.name}:resume", arguments)
        return _checked(leg.result, group)

    return relayed


def _advance(function: str, arguments: dict[str, Any]) -> Flow[_Leg]:
    output = yield from ask(Execute(ROLE, function, arguments))
    try:
        return msgspec.convert(output.result, _Leg)
    except msgspec.ValidationError as error:
        raise MethodFailed(f"a reward of the methods file answered badly: {error}") from error


def _outcome(call: Call[Any], roles: frozenset[str]) -> Flow[Output | Failure]:
    """The call's output, or its failure as it travels back to the child."""
    if call.role not in roles:
        return Failure(MethodFailed(f"the reward asks the role `{call.role}`, undeclared").info)
    outcome = yield from attempt(ask(call))
    return Failure(to_info(outcome.error)) if isinstance(outcome, Failed) else outcome


def _checked(reward: GroupReward, group: Group) -> GroupReward:
    if len(reward.rewards) != len(group.responses):
        count = f"{len(reward.rewards)} rewards for {len(group.responses)} responses"
        raise MethodFailed(f"a reward of the methods file gave {count}")
    return reward
