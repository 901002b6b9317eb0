"""Small engines that obey, or break, the Engine protocol; no model behind any of them."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from rewardd.core.calls import (
    Call,
    EngineCard,
    Failure,
    Input,
    Output,
    Pool,
    PoolOutput,
    Scope,
    Usage,
)
from rewardd.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    InputTooLong,
    NonFinite,
    RewarddError,
)

TOO_LONG, NAN, DOWN, LATE = "<too long>", "<nan>", "<down>", "<late>"
_FAILS: dict[str, Callable[[], RewarddError]] = {
    TOO_LONG: lambda: InputTooLong("the input has 9,000 tokens, the model reads 512"),
    NAN: lambda: NonFinite("the model gave NaN"),
    DOWN: lambda: EngineUnavailable("no replica is up"),
    LATE: lambda: DeadlineExceeded("the deadline passed in the queue"),
}


def rendered(read: Input) -> str:
    reply = read.reply
    if reply is None:
        return ""
    return reply.content or reply.text or "\n".join(reply.steps or [])


def value_of(text: str) -> float:
    """What HashEngine gives for a reply: any text its own number in 0..1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


class HashEngine:
    """A value for every reply; a reply that says so fails instead."""

    def __init__(self) -> None:
        self.card = EngineCard("hash", "1", model="hash", revision="r1", dtype="float32")
        self.scopes: list[Scope] = []

    def supports(self, call: type[Call[Any]], task: str | None = None) -> bool:
        return call is Pool

    async def run(self, calls: Sequence[Call[Any]], scope: Scope) -> list[Output | Failure]:
        self.scopes.append(scope)
        await asyncio.sleep(0)
        return [self._outcome(call) for call in calls]

    async def health(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def _outcome(self, call: Call[Any]) -> Output | Failure:
        assert isinstance(call, Pool)
        text = rendered(call.input)
        for mark, error in _FAILS.items():
            if mark in text:
                return Failure(error().info)
        parts = text.split("\n") if call.task == "token_classify" else [text]
        usage = Usage(tokens_total=len(text), tokens_computed=len(text) // 2, tokens_reused=3)
        return PoolOutput(values=[[value_of(part)] for part in parts], usage=usage)


class BlockedEngine(HashEngine):
    """Answers only when let go; notes when it was asked and when it was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.free = asyncio.Event()

    async def run(self, calls: Sequence[Call[Any]], scope: Scope) -> list[Output | Failure]:
        self.asked.set()
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return await super().run(calls, scope)


class UnhealthyEngine(HashEngine):
    async def health(self) -> None:
        raise EngineUnavailable("the device is lost")


class BrokenEngine(HashEngine):
    """Breaks the protocol where the runner does not expect it."""

    async def run(self, calls: Sequence[Call[Any]], scope: Scope) -> list[Output | Failure]:
        outcomes = await super().run(calls, scope)
        del self.card
        return outcomes
