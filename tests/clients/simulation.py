"""A third driver: flows against a server and a clock that are plain Python."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import msgspec

from rewardd_client import APIConnectionError
from rewardd_client._flow import Answer, Endpoint, Flow, Send, Sleep
from rewardd_client._retry import RetryPolicy
from tests.clients.server import reward_answer

T = TypeVar("T")
Reply = Answer | APIConnectionError
Server = Callable[[Send], Reply]


@dataclass
class Simulation:
    """Each try takes `try_s`; sleeping takes no time of ours."""

    server: Server
    try_s: float = 0.0
    now: float = 1000.0
    sent: list[Send] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def endpoint(self, **changes: Any) -> Endpoint:
        fields: dict[str, Any] = {
            "url": "http://test",
            "headers": {"Accept": "application/json"},
            "timeout_s": 600.0,
            "policy": RetryPolicy(),
            "random": Random(0),
            "monotonic": lambda: self.now,
            "wall": lambda: 0.0,
        }
        return Endpoint(**{**fields, **changes})

    def run(self, flow: Flow[T]) -> T:
        with closing(flow):
            try:
                effect = next(flow)
                while True:
                    effect = flow.send(self._perform(effect))
            except StopIteration as stop:
                result: T = stop.value
                return result

    def _perform(self, effect: Send | Sleep) -> Reply | None:
        if isinstance(effect, Sleep):
            self.slept.append(effect.seconds)
            self.now += effect.seconds
            return None
        self.sent.append(effect)
        self.now += self.try_s
        return self.server(effect)


def scripted(*replies: Reply) -> Server:
    """Answer with one reply after the other."""
    waiting = list(replies)
    return lambda send: waiting.pop(0)


def rightly(send: Send) -> Reply:
    path = send.url.removeprefix("http://test")
    return Answer(200, {}, msgspec.json.encode(reward_answer(path, send.body or b"")))
