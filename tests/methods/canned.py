"""Running a method without an engine: a group, parameters, and a function that answers calls."""

from collections.abc import Callable
from typing import Any

from rewardd import methods
from rewardd.core.calls import Call, Failure, Output
from rewardd.core.flow import play
from rewardd.core.registry import MethodSpec, discover
from rewardd_types import Group, GroupReward, Response

SPECS: dict[str, MethodSpec] = discover(methods)
Answer = Callable[[Any], Output | Failure]


def run(method: str, group: Group, answer: Answer, **params: Any) -> GroupReward:
    """What the registered method gives, as the runner would ask it."""
    spec = SPECS[method]
    return play(spec.flow(group, spec.parse(params, None)), answer)


def group_of(*contents: str, **fields: Any) -> Group:
    """A group of plain responses `r0`, `r1`, ..."""
    responses = [Response(id=f"r{i}", content=text) for i, text in enumerate(contents)]
    return Group(**{"prompt": "q", "responses": responses, **fields})


def never(call: Call[Any]) -> Output | Failure:
    """For methods that must not ask."""
    raise AssertionError(f"nothing should be asked, but {call} was")
