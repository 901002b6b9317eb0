"""The batcher: everything queued, from whatever request, goes to the device together.

A thread takes what is queued the moment the device is free (no wait timer). What to take is a pure
choice of the engine (`choose`). Work whose caller has left, or whose deadline has passed, is
dropped before it costs anything; a batch that fails is split until the one at fault stands alone.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rewardd.core.calls import Failure, Output, Scope
from rewardd.errors import DeadlineExceeded, EngineError, EngineUnavailable, RewarddError, to_info

log = logging.getLogger(__name__)

J = TypeVar("J")

_LATE = Failure(DeadlineExceeded("the deadline passed before the call was computed").info)


class Ticket:
    """One caller waiting for all its work. Cancel it, and what is still queued is dropped."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = count
        self.done: asyncio.Future[None] = self._loop.create_future()
        self.outcomes: list[Output | Failure | None] = [None] * count
        self.cancelled = False

    def settle(self, items: Sequence[tuple[int, Output | Failure]]) -> None:
        """Enter outcomes by slot, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._enter, items)
        except RuntimeError:
            self.cancelled = True  # the loop is closed: nobody waits any more

    def _enter(self, items: Sequence[tuple[int, Output | Failure]]) -> None:
        for slot, outcome in items:
            self.outcomes[slot] = outcome
        self._left -= len(items)
        if self._left == 0 and not self.done.done():
            self.done.set_result(None)


@dataclass(slots=True)
class Work(Generic[J]):
    """One job for the device, its caller's ticket, and the slot its outcome belongs to."""

    job: J
    scope: Scope
    ticket: Ticket
    slot: int
    queued_at: float = field(default_factory=time.monotonic)

    @property
    def wanted(self) -> bool:
        return not self.ticket.cancelled

    @property
    def late(self) -> bool:
        return self.scope.deadline is not None and self.scope.deadline <= time.monotonic()


class Batcher(Generic[J]):
    """`choose(jobs)` gives the indices of those to take, `compute` their outcomes.

    `compute(jobs, waited_ms)` returns one outcome a job; raising fails the batch, which is split.
    Nothing that either does ends the thread: what cannot be helped fails the work at hand.
    """

    def __init__(
        self,
        name: str,
        choose: Callable[[Sequence[J]], Sequence[int]],
        compute: Callable[[Sequence[J], Sequence[float]], Sequence[Output | Failure]],
    ) -> None:
        self._choose = choose
        self._compute = compute
        self._queue: list[Work[J]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=f"device-{name}", daemon=True)
        self._thread.start()

    async def run(self, jobs: Sequence[J | Failure], scope: Scope) -> list[Output | Failure]:
        """Queue the jobs and wait for all outcomes; a Failure among them is its own outcome.

        At the deadline it answers with what is there, and the rest fails as late.
        """
        ticket = Ticket(len(jobs))
        ready = [(slot, job) for slot, job in enumerate(jobs) if isinstance(job, Failure)]
        work = [
            Work(job, scope, ticket, slot)
            for slot, job in enumerate(jobs)
            if not isinstance(job, Failure)
        ]
        if ready:
            ticket.settle(ready)
        self._enqueue(work)
        try:
            if jobs:
                await _settled(ticket, scope.deadline)
        finally:
            ticket.cancelled = True
        return [_LATE if outcome is None else outcome for outcome in ticket.outcomes]

    def close(self) -> None:
        """Stop after the running batch; what is queued fails as unavailable."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _enqueue(self, work: list[Work[J]]) -> None:
        with self._changed:
            if self._closed:
                raise EngineUnavailable("the engine is closing")
            self._queue.extend(work)
            self._queue.sort(key=lambda item: item.scope.priority)  # stable: else by arrival
            self._changed.notify()

    def _loop(self) -> None:
        try:
            while (batch := self._next()) is not None:
                if batch:
                    self._execute(batch)
        finally:
            with self._changed:
                self._closed = True
                left, self._queue = self._queue, []
            stopped = Failure(EngineUnavailable("the engine was closed").info)
            _deliver([(work, stopped) for work in left])

    def _next(self) -> list[Work[J]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if self._closed:
                return None
            self._drop()
            queue = list(self._queue)
        batch = self._chosen(queue)  # without the lock: callers' event loops must not wait for it
        taken = set(map(id, batch))
        with self._changed:
            self._queue = [work for work in self._queue if id(work) not in taken]
        return batch

    def _chosen(self, queue: list[Work[J]]) -> list[Work[J]]:
        """What the engine picks; the first alone if the choice fails or takes nothing."""
        if not queue:
            return []
        try:
            indices = sorted(set(self._choose([work.job for work in queue])))
            return [queue[index] for index in indices] or queue[:1]
        except Exception:
            log.exception("choosing a batch failed; the first of %d goes alone", len(queue))
            return queue[:1]

    def _drop(self) -> None:
        wanted = [work for work in self._queue if work.wanted]
        _deliver([(work, _LATE) for work in wanted if work.late])
        self._queue = [work for work in wanted if not work.late]

    def _execute(self, batch: list[Work[J]]) -> None:
        now = time.monotonic()
        waited = [(now - work.queued_at) * 1e3 for work in batch]
        try:
            outcomes = self._compute([work.job for work in batch], waited)
            _deliver(list(zip(batch, outcomes, strict=True)))
            return
        except BaseException as error:  # a thread has nobody above it to catch what is left
            log.warning(
                "a batch of %d failed: %s: %s", len(batch), type(error).__name__, str(error)
            )
            failure = _failure(error)
        # Outside of the handler: its traceback would keep the failed batch's tensors in memory.
        if len(batch) == 1:
            _deliver([(batch[0], failure)])
            return
        half = len(batch) // 2
        self._execute(batch[:half])
        self._execute(batch[half:])


async def _settled(ticket: Ticket, deadline: float | None) -> None:
    """Until every outcome is there, or the deadline."""
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    with suppress(TimeoutError):
        async with asyncio.timeout(left):
            await ticket.done


def _failure(error: BaseException) -> Failure:
    if isinstance(error, RewarddError):
        return Failure(to_info(error))
    return Failure(EngineError(f"{type(error).__name__}: {error}").info)


def _deliver(outcomes: Sequence[tuple[Work[Any], Output | Failure]]) -> None:
    """Settle each ticket once, with all its outcomes of this batch."""
    by_ticket: dict[int, tuple[Ticket, list[tuple[int, Output | Failure]]]] = {}
    for work, outcome in outcomes:
        entry = by_ticket.setdefault(id(work.ticket), (work.ticket, []))
        entry[1].append((work.slot, outcome))
    for ticket, items in by_ticket.values():
        ticket.settle(items)
