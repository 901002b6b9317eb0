"""The sandbox engine: `Execute` calls in child processes that can be killed.

Verifiers evaluate what a policy wrote, and a user's own rewards are anybody's code: both may hang
in C, eat the memory or crash, and Python can stop neither a thread nor a big integer. So they run
in child processes: past its time a call's child is killed and replaced; its neighbours go on.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import rewardd
from rewardd.core.calls import (
    Call,
    EngineCard,
    Execute,
    ExecuteOutput,
    Failure,
    Output,
    Scope,
    Usage,
)
from rewardd.engines.sandbox_process import SandboxProcess
from rewardd.engines.sandbox_wire import Describe, Invoke, Load, Raised, UserFunction
from rewardd.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    ExecutionTimeout,
    MethodFailed,
    RewarddError,
    StartRefused,
    UnsupportedCall,
    from_info,
)

START_TIMEOUT_S = 60.0
"""For a child to import what a function needs; not charged to the call."""


class SandboxEngine:
    """Runs named functions in `processes` children, which start when they are first needed."""

    def __init__(
        self, processes: int = 1, memory_mb: int = 1024, methods_file: Path | None = None
    ) -> None:
        self.card = _card(methods_file)
        self.methods_file = methods_file
        self._memory_mb = memory_mb
        self._children: list[SandboxProcess | None] = [None] * processes
        self._turns = _Turns(processes)
        self._started = 0
        self._closed = False

    def supports(self, call: type[Call[Any]], task: str | None = None) -> bool:
        return issubclass(call, Execute)

    async def run(self, calls: Sequence[Call[Any]], scope: Scope) -> list[Output | Failure]:
        """Serve all calls; one that hangs or crashes takes only its own child with it."""
        return list(await asyncio.gather(*(self._serve(call, scope) for call in calls)))

    async def health(self) -> None:
        """Raise EngineUnavailable unless a child runs or can be started."""
        if any(child is not None and child.alive for child in self._children):
            return
        slot = await self._turns.take(None)
        try:
            await self._child(slot)
        finally:
            self._turns.give(slot)

    async def describe(self) -> list[UserFunction]:
        """The rewards of the methods file, as a child that imported it tells."""
        slot = await self._turns.take(None)
        try:
            child = await self._child(slot)
            reply = await child.ask(Describe(), START_TIMEOUT_S)
        finally:
            self._turns.give(slot)
        if isinstance(reply, Raised):
            raise from_info(reply.error)
        return msgspec.convert(reply.result, list[UserFunction])

    async def aclose(self) -> None:
        """Kill all children; calls still running fail."""
        self._closed = True
        children = [child for child in self._children if child is not None]
        await asyncio.gather(*(child.kill() for child in children))

    async def _serve(self, call: Call[Any], scope: Scope) -> Output | Failure:
        if not isinstance(call, Execute):
            return Failure(UnsupportedCall("a sandbox serves `Execute` calls only").info)
        try:
            return await self._execute(call, scope)
        except RewarddError as error:
            return Failure(error.info)

    async def _execute(self, call: Execute, scope: Scope) -> Output | Failure:
        asked = time.monotonic()
        slot = await self._turns.take(self._slot_of(call))
        try:
            child = await self._ready(slot, call)
            begun = time.monotonic()
            reply = await child.ask(
                Invoke(call.function, call.arguments, call.timeout_s), _limit(call, scope, begun)
            )
        except ExecutionTimeout:
            if scope.deadline is not None and time.monotonic() >= scope.deadline:
                raise DeadlineExceeded("the deadline passed while the sandbox worked") from None
            raise
        finally:
            self._turns.give(slot)
        if isinstance(reply, Raised):
            return Failure(reply.error)
        ended = time.monotonic()
        usage = Usage(queue_ms=(begun - asked) * 1e3, compute_ms=(ended - begun) * 1e3)
        return ExecuteOutput(result=reply.result, usage=usage)

    def _slot_of(self, call: Execute) -> int | None:
        """The slot whose child holds the call's session; None when it has none."""
        session = call.arguments.get("session")
        if not isinstance(session, str):
            return None
        name = session.partition("/")[0]
        for slot, child in enumerate(self._children):
            if child is not None and child.alive and child.name == name:
                return slot
        raise MethodFailed("the sandbox process that ran this reward is gone")

    async def _ready(self, slot: int, call: Execute) -> SandboxProcess:
        """The slot's child with the function loaded."""
        child = await self._child(slot)
        session = call.arguments.get("session")
        if isinstance(session, str) and session.partition("/")[0] != child.name:
            raise MethodFailed("the sandbox process that ran this reward is gone")
        if call.function not in child.loaded:
            loaded = await child.ask(Load(call.function), START_TIMEOUT_S)
            if isinstance(loaded, Raised):
                raise from_info(loaded.error)
            child.loaded.add(call.function)
        return child

    async def _child(self, slot: int) -> SandboxProcess:
        if self._closed:
            raise EngineUnavailable("the sandbox is closed")
        child = self._children[slot]
        if child is None or not child.alive:
            self._started += 1
            name = str(self._started)
            child = await SandboxProcess.start(name, self._memory_mb, self.methods_file)
            self._children[slot] = child
        return child


def _card(methods_file: Path | None) -> EngineCard:
    version = rewardd.__version__
    if methods_file is None:
        return EngineCard(engine="sandbox", engine_version=version)
    if not methods_file.is_file():
        raise StartRefused(f"there is no methods file {methods_file}")
    revision = hashlib.sha256(methods_file.read_bytes()).hexdigest()[:12]
    return EngineCard(
        engine="sandbox", engine_version=version, model=methods_file.name, revision=revision
    )


def _limit(call: Execute, scope: Scope, now: float) -> float:
    """Seconds the call may take."""
    if scope.deadline is None:
        return call.timeout_s
    left = scope.deadline - now
    if left <= 0:
        raise DeadlineExceeded("the deadline passed before the sandbox had a free process")
    return min(call.timeout_s, left)


class _Turns:
    """Lends slots, one caller at a time, to callers in the order they came."""

    def __init__(self, count: int) -> None:
        self._idle = list(range(count - 1, -1, -1))
        self._waiting: deque[tuple[int | None, asyncio.Future[int]]] = deque()

    async def take(self, wanted: int | None) -> int:
        """A slot, or the slot `wanted`; the one used last if several are idle."""
        if self._idle and wanted is None:
            return self._idle.pop()
        if wanted is not None and wanted in self._idle:
            self._idle.remove(wanted)
            return wanted
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove((wanted, turn))
            else:  # the slot was given in the same tick
                self.give(turn.result())
            raise

    def give(self, slot: int) -> None:
        """Hand the slot to the first who waits for it, or for any."""
        for index, (wanted, future) in enumerate(self._waiting):
            if wanted in (None, slot) and not future.done():
                del self._waiting[index]
                future.set_result(slot)
                return
        self._idle.append(slot)
