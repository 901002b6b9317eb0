"""From one response to a group: how most methods are written."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import msgspec

from rewardd.core.calls import Output
from rewardd.core.flow import Failed, Flow, T, attempt, gather
from rewardd.errors import MethodFailed, Unscorable, to_info
from rewardd_types import Group, GroupReward, Response, Reward, Seen, Status

P = ParamSpec("P")


def pointwise(
    method: Callable[Concatenate[Group, Response, P], Flow[Reward]],
) -> Callable[Concatenate[Group, P], Flow[GroupReward]]:
    """Lift a flow that rewards one response to the group.

    Each response stands in an attempt of its own: one failure is one item's error, and its
    siblings finish.
    """

    @functools.wraps(method)
    def lifted(group: Group, /, *args: P.args, **kwargs: P.kwargs) -> Flow[GroupReward]:
        flows = [
            reward_of(response, method(group, response, *args, **kwargs))
            for response in group.responses
        ]
        return GroupReward(rewards=(yield from gather(flows)))

    return lifted


def reward_of(response: Response, flow: Flow[Reward]) -> Flow[Reward]:
    """The response's reward under its own id: the flow's, or its failure as an error."""
    seen: list[Seen] = []
    outcome: Any = yield from attempt(_watch(flow, seen))
    if isinstance(outcome, Reward):
        return msgspec.structs.replace(outcome, id=response.id, seen=seen or outcome.seen)
    if isinstance(outcome, Failed):
        return failed_reward(response, outcome.error)
    wrong = f"a method gives a Reward for a response, not a {type(outcome).__name__}"
    return failed_reward(response, MethodFailed(wrong))


def failed_reward(response: Response, error: Exception) -> Reward:
    """A reward without a value that says why; never a number."""
    status: Status = "unscorable" if isinstance(error, Unscorable) else "error"
    return Reward(id=response.id, status=status, error=to_info(error))


def _watch(flow: Flow[T], seen: list[Seen]) -> Flow[T]:
    """Run `flow` unchanged and collect what its calls' models read (filled with `explain`)."""
    try:
        resume = functools.partial(flow.send, None)
        while True:
            try:
                request = resume()
            except StopIteration as stop:
                result: T = stop.value
                return result
            try:
                reply = yield request
            except Exception as error:
                resume = functools.partial(flow.throw, error)
            else:
                seen.extend(_seen_in(reply))
                resume = functools.partial(flow.send, reply)
    finally:
        flow.close()  # by hand: it is not delegated to, so closing us would not reach it


def _seen_in(reply: Any) -> list[Seen]:
    outputs = reply if isinstance(reply, list) else [reply]
    return [o.seen for o in outputs if isinstance(o, Output) and o.seen]
