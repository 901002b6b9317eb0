"""A user's own rewards, in the child: the file is imported here and nowhere else.

The file holds a plain `def reward(prompt, response, reference=None, **extra) -> float`, or several
in `REWARDS = {"name": function}`, or `@reward_method` generators, whose calls travel to the server
and whose outputs come back: the generator is advanced here, leg by leg.
"""

import importlib.util
import inspect
import math
import numbers
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from rewardd.core.calls import (
    Execute,
    ExecuteOutput,
    Failure,
    Generate,
    GenerateOutput,
    Logprobs,
    LogprobsOutput,
    Pool,
    PoolOutput,
)
from rewardd.core.flow import Machine
from rewardd.core.registry import MethodSpec, methods_in
from rewardd.engines.sandbox_wire import UserFunction
from rewardd.errors import MethodFailed, NonFinite, StartRefused, Unscorable
from rewardd_types import Group, GroupReward

MAX_SESSIONS = 4096
"""Unfinished generators a child keeps; a caller who left never finishes his."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_RESERVED = frozenset({"prompt", "response", "reference"})

RelayedCall = Pool | Logprobs | Generate | Execute
Outcome = PoolOutput | LogprobsOutput | GenerateOutput | ExecuteOutput | Failure


class UserFile:
    """The rewards of one file. `child` names this process in the sessions it opens."""

    def __init__(self, path: Path, child: str) -> None:
        module = _import(path)
        self._plain = _plain_functions(path, module)
        self._methods = {spec.name: spec for spec in methods_in(module)}
        both = self._plain.keys() & self._methods.keys()
        if both:
            raise StartRefused(f"{path}: two rewards are called `{min(both)}`")
        if not self._plain and not self._methods:
            raise StartRefused(
                f"{path} holds no reward: define `def reward(prompt, response, reference=None,"
                " **extra) -> float`, `REWARDS = {...}` or a `@reward_method`"
            )
        self._child = child
        self._sessions: dict[str, Machine[GroupReward]] = {}
        self._opened = 0

    def describe(self) -> list[UserFunction]:
        """What the server may offer from this file."""
        plain = [
            UserFunction(name=name, plain=True, summary=_summary(function))
            for name, function in self._plain.items()
        ]
        return plain + [_describe(spec) for spec in self._methods.values()]

    def run(self, function: str, arguments: dict[str, Any]) -> Any:
        """`NAME` calls a plain function; `NAME:start` and `NAME:resume` advance a generator."""
        name, _, verb = function.partition(":")
        if verb == "start" and name in self._methods:
            return self._start(self._methods[name], arguments)
        if verb == "resume":
            return self._resume(arguments)
        if not verb and name in self._plain:
            return _call(name, self._plain[name], **arguments)
        raise MethodFailed(f"the methods file has no reward `{function}`")

    def _start(self, spec: MethodSpec, arguments: dict[str, Any]) -> dict[str, Any]:
        group = msgspec.convert(arguments["group"], Group)
        params = spec.parse(arguments["params"], None)
        self._opened += 1
        return self._leg(f"{self._child}/{self._opened}", Machine(spec.flow(group, params)))

    def _resume(self, arguments: dict[str, Any]) -> dict[str, Any]:
        session = arguments["session"]
        machine = self._sessions.pop(session, None)
        if machine is None:
            raise MethodFailed("the sandbox dropped this reward: too many were unfinished")
        outcomes = msgspec.convert(arguments["outcomes"], list[tuple[tuple[int, ...], Outcome]])
        for path, outcome in outcomes:
            machine.settle(path, outcome)
        return self._leg(session, machine)

    def _leg(self, session: str, machine: Machine[GroupReward]) -> dict[str, Any]:
        """The flow's result, or what it asks for next."""
        if machine.done:
            return {"result": machine.result()}
        self._sessions[session] = machine
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.pop(next(iter(self._sessions))).close()
        return {"session": session, "calls": [[path, call] for path, call in machine.take()]}


def _import(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("rewardd_user_methods", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise StartRefused(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # `@reward_method` looks the module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise StartRefused(f"{path}: {type(error).__name__}: {error}") from error
    return module


def _plain_functions(path: Path, module: ModuleType) -> dict[str, Callable[..., Any]]:
    named = getattr(module, "REWARDS", None)
    if named is None:
        own = getattr(module, "reward", None)
        marked = inspect.isgeneratorfunction(inspect.unwrap(own)) if callable(own) else True
        named = {} if marked else {"reward": own}
    if not isinstance(named, dict):
        raise StartRefused(f"{path}: REWARDS is a dict of names and functions")
    for name, function in named.items():
        if not (isinstance(name, str) and _NAME.fullmatch(name) and callable(function)):
            raise StartRefused(f"{path}: REWARDS[{name!r}] is no name of a function")
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise StartRefused(f"{path}: `{name}` must be a plain function that returns a float")
    return named


def _summary(function: object) -> str:
    return (inspect.getdoc(function) or "").split("\n")[0]


def _describe(spec: MethodSpec) -> UserFunction:
    fields = msgspec.structs.fields(spec.params)
    defaults = {field.name: _default(field) for field in fields if not field.required}
    return UserFunction(
        name=spec.name,
        plain=False,
        summary=spec.summary,
        roles=[*spec.roles],
        reads=[*spec.reads],
        gives=spec.gives,
        metrics=[*spec.metrics],
        paper=spec.paper,
        params=defaults,
        required=[field.name for field in fields if field.required],
    )


def _default(field: msgspec.structs.FieldInfo) -> Any:
    factory = field.default_factory
    made = field.default if factory is msgspec.NODEFAULT else factory()
    return msgspec.to_builtins(made)


def _call(
    name: str,
    function: Callable[..., Any],
    prompt: str,
    response: str,
    reference: str | list[str] | None,
    extra: dict[str, Any],
) -> float:
    """A plain function's reward; it is given of `reference` and `extra` what it takes."""
    offered = {"reference": reference, **{k: v for k, v in extra.items() if k not in _RESERVED}}
    parameters = inspect.signature(function).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        offered = {key: value for key, value in offered.items() if key in parameters}
    return _reward(name, function(prompt, response, **offered))


def _reward(name: str, value: Any) -> float:
    if value is None:
        raise Unscorable(f"`{name}` returned None: it finds nothing to score")
    if not isinstance(value, numbers.Real):
        raise MethodFailed(f"`{name}` returned a {type(value).__name__}; a reward is a float")
    reward = float(value)
    if not math.isfinite(reward):
        raise NonFinite(f"`{name}` returned {reward}")
    return reward
