"""The batcher: everything queued goes together, and nothing that goes wrong stays."""

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from rewardd.core.calls import ExecuteOutput, Failure, Output, Scope
from rewardd.engines.batcher import Batcher
from rewardd.errors import EngineUnavailable, InvalidRequest, UnsupportedCall

pytestmark = pytest.mark.anyio

NOW = Scope()
PATIENCE_S = 20.0


class Device:
    """Doubles its jobs. It can be held inside a batch, so that a queue builds up behind it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.waited: list[float] = []
        self.bad: set[int] = set()
        self.error: BaseException = ValueError("bad job")
        self.entered = threading.Event()
        self.release = threading.Event()
        self.release.set()

    def compute(self, jobs: Sequence[int], waited: Sequence[float]) -> list[Output | Failure]:
        self.batches.append(list(jobs))
        self.waited.extend(waited)
        self.entered.set()
        assert self.release.wait(PATIENCE_S)
        if self.bad & set(jobs):
            raise self.error
        return [ExecuteOutput(result=2 * job) for job in jobs]

    def hold(self) -> None:
        self.entered.clear()
        self.release.clear()

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, PATIENCE_S)


@pytest.fixture
def device() -> Device:
    return Device()


Make = Callable[..., Batcher[int]]


@pytest.fixture
def make(device: Device) -> Iterator[Make]:
    """Batchers that take everything, unless told how to choose."""
    made: list[Batcher[int]] = []

    def batcher(choose: Callable[[Sequence[int]], Sequence[int]] | None = None) -> Batcher[int]:
        made.append(Batcher("test", choose or (lambda jobs: range(len(jobs))), device.compute))
        return made[-1]

    yield batcher
    device.release.set()
    for one in made:
        one.close()


async def queued(batcher: Batcher[int], count: int) -> None:
    """Until so many wait behind the batch on the device."""
    async with asyncio.timeout(PATIENCE_S):
        while len(batcher._queue) < count:
            await asyncio.sleep(0)


def results(outcomes: Sequence[Output | Failure]) -> list[Any]:
    return [
        o.error.code if isinstance(o, Failure) else getattr(o, "result", None) for o in outcomes
    ]


async def occupied(batcher: Batcher[int], device: Device) -> asyncio.Task[list[Output | Failure]]:
    """A batch on the device that stays there until it is released."""
    device.hold()
    first = asyncio.create_task(batcher.run([0], NOW))
    await device.reached()
    return first


async def test_outcomes_come_in_the_order_of_the_jobs(make: Make) -> None:
    assert results(await make().run([3, 1, 2], NOW)) == [6, 2, 4]


async def test_no_jobs_give_no_outcomes(make: Make, device: Device) -> None:
    assert await make().run([], NOW) == []
    assert device.batches == []


async def test_failures_among_the_jobs_are_their_own_outcomes(make: Make, device: Device) -> None:
    no = Failure(UnsupportedCall("no").info)
    assert results(await make().run([no, 1, no], NOW)) == [no.error.code, 2, no.error.code]
    assert results(await make().run([no], NOW)) == [no.error.code]
    assert device.batches == [[1]]


async def test_everything_queued_goes_together(make: Make, device: Device) -> None:
    batcher = make()
    first = await occupied(batcher, device)
    others = [asyncio.create_task(batcher.run([10 * n, 10 * n + 1], NOW)) for n in range(1, 5)]
    await queued(batcher, 8)
    device.release.set()
    assert [results(await other) for other in others] == [[20 * n, 20 * n + 2] for n in range(1, 5)]
    assert results(await first) == [0]
    assert device.batches == [[0], [10, 11, 20, 21, 30, 31, 40, 41]]


async def test_waiting_is_measured_in_milliseconds(make: Make, device: Device) -> None:
    batcher, since = make(), time.monotonic()
    first = await occupied(batcher, device)
    second = asyncio.create_task(batcher.run([1], NOW))
    await queued(batcher, 1)
    waiting = time.monotonic()
    await asyncio.sleep(0.01)
    least = (time.monotonic() - waiting) * 1e3
    device.release.set()
    await asyncio.gather(first, second)
    assert device.waited[1] >= least
    assert max(device.waited) <= (time.monotonic() - since) * 1e3


async def test_what_is_not_chosen_goes_with_the_next_batch(make: Make, device: Device) -> None:
    batcher = make(lambda jobs: [i for i, job in enumerate(jobs) if job % 2 == jobs[0] % 2])
    first = await occupied(batcher, device)
    second = asyncio.create_task(batcher.run([1, 2, 3, 4], NOW))
    await queued(batcher, 4)
    device.release.set()
    assert results(await second) == [2, 4, 6, 8]
    await first
    assert device.batches == [[0], [1, 3], [2, 4]]


async def test_lower_priority_numbers_go_first_else_by_arrival(make: Make, device: Device) -> None:
    batcher = make(lambda jobs: [0])
    first = await occupied(batcher, device)
    tasks = []
    for job, priority in [(1, 5), (2, 0), (3, 5), (4, 0), (5, -1)]:
        tasks.append(asyncio.create_task(batcher.run([job], Scope(priority=priority))))
        await queued(batcher, len(tasks))
    device.release.set()
    await asyncio.gather(first, *tasks)
    assert [batch[0] for batch in device.batches] == [0, 5, 2, 4, 1, 3]


class TestDropping:
    async def test_a_deadline_that_passed_in_the_queue(self, make: Make, device: Device) -> None:
        batcher = make()
        first = await occupied(batcher, device)
        late = asyncio.create_task(batcher.run([1], Scope(deadline=time.monotonic() + 0.01)))
        patient = asyncio.create_task(batcher.run([2], Scope(deadline=time.monotonic() + 600)))
        await queued(batcher, 2)
        while time.monotonic() < batcher._queue[0].scope.deadline:  # type: ignore[operator]
            await asyncio.sleep(0.001)
        device.release.set()
        outcomes = await late
        assert results(outcomes) == ["deadline_exceeded"]
        assert isinstance(outcomes[0], Failure)
        assert outcomes[0].error.retryable
        assert results(await patient) == [4]
        await first
        assert device.batches == [[0], [2]]

    async def test_at_the_deadline_what_is_there_is_answered(
        self, make: Make, device: Device
    ) -> None:
        """The second batch is on the device when the time is up."""
        batcher = make(lambda jobs: [0])
        compute = device.compute

        def hang_on_two(jobs: Sequence[int], waited: Sequence[float]) -> list[Output | Failure]:
            if jobs == [2]:
                device.release.clear()
            return compute(jobs, waited)

        batcher._compute = hang_on_two
        scope = Scope(deadline=time.monotonic() + 0.2)
        async with asyncio.timeout(PATIENCE_S):
            outcomes = await batcher.run([1, 2, 3], scope)
        late = "deadline_exceeded"
        assert results(outcomes) == [2, late, late]
        device.release.set()
        assert results(await batcher.run([4], NOW)) == [8]
        assert [3] not in device.batches

    async def test_a_caller_who_left(self, make: Make, device: Device) -> None:
        batcher = make()
        first = await occupied(batcher, device)
        gone = asyncio.create_task(batcher.run([1], NOW))
        stays = asyncio.create_task(batcher.run([2], NOW))
        await queued(batcher, 2)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        device.release.set()
        assert results(await stays) == [4]
        await first
        assert device.batches == [[0], [2]]

    async def test_a_caller_who_left_while_computed_disturbs_nobody(
        self, make: Make, device: Device
    ) -> None:
        batcher = make()
        first = await occupied(batcher, device)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        device.release.set()
        assert results(await batcher.run([2], NOW)) == [4]


class TestFailing:
    @pytest.mark.parametrize("bad", [{3}, {0}, {15}, {4, 11}, set(range(16))])
    async def test_a_bad_job_fails_alone(self, make: Make, device: Device, bad: set[int]) -> None:
        device.bad = bad
        outcomes = await make().run(list(range(16)), NOW)
        assert results(outcomes) == ["engine_error" if n in bad else 2 * n for n in range(16)]

    async def test_it_is_found_by_halves(self, make: Make, device: Device) -> None:
        device.bad = {3}
        await make().run(list(range(16)), NOW)
        assert len(device.batches) == 1 + 2 * 4

    async def test_the_message_names_the_error(self, make: Make, device: Device) -> None:
        device.bad = {1}
        (outcome,) = await make().run([1], NOW)
        assert isinstance(outcome, Failure)
        assert outcome.error.message == "ValueError: bad job"

    async def test_a_failed_batch_is_freed_before_the_next_try(self) -> None:
        """Its traceback would hold its tensors, and running out of memory would repeat itself."""

        class Tensor:
            pass

        alive: list[weakref.ref[Tensor]] = []
        freed: list[bool] = []

        def compute(jobs: Sequence[int], waited: Sequence[float]) -> list[Output | Failure]:
            freed.append(all(ref() is None for ref in alive))
            tensor = Tensor()
            alive.append(weakref.ref(tensor))
            if len(jobs) > 1:
                raise MemoryError("too much")
            return [ExecuteOutput(result=job) for job in jobs]

        batcher = Batcher("memory", lambda jobs: range(len(jobs)), compute)
        try:
            assert results(await batcher.run([1, 2, 3, 4], NOW)) == [1, 2, 3, 4]
        finally:
            batcher.close()
        assert freed == [True] * 7

    async def test_errors_of_ours_keep_their_code(self, make: Make, device: Device) -> None:
        device.bad, device.error = {1}, InvalidRequest("no", path="$.x")
        (outcome,) = await make().run([1], NOW)
        assert outcome == Failure(InvalidRequest("no", path="$.x").info)

    async def test_a_batch_answered_with_too_few_outcomes_fails(self) -> None:
        batcher: Batcher[int] = Batcher("short", lambda jobs: range(len(jobs)), lambda *_: [])
        try:
            assert results(await batcher.run([1, 2], NOW)) == ["engine_error"] * 2
        finally:
            batcher.close()

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
    async def test_nothing_ends_the_thread(
        self, make: Make, device: Device, error: BaseException
    ) -> None:
        """A dead thread under a green health check is how serving peers hang (trap T16)."""
        batcher = make()
        device.bad, device.error = {1}, error
        assert results(await batcher.run([1, 2], NOW)) == ["engine_error", 4]
        assert results(await batcher.run([3], NOW)) == [6]

    @pytest.mark.parametrize(
        "choose",
        [lambda jobs: 1 // 0, lambda jobs: [], lambda jobs: [len(jobs)]],
        ids=["raises", "takes nothing", "takes what is not there"],
    )
    async def test_a_broken_choice_stops_nothing(
        self, make: Make, device: Device, choose: Callable[[Sequence[int]], Any]
    ) -> None:
        async with asyncio.timeout(PATIENCE_S):
            assert results(await make(choose).run([1, 2, 3], NOW)) == [2, 4, 6]
        assert device.batches == [[1], [2], [3]]

    async def test_callers_can_queue_while_a_batch_is_chosen(
        self, make: Make, device: Device
    ) -> None:
        """The choice may take long; the lock an event loop needs is not held meanwhile."""
        choosing, go_on = threading.Event(), threading.Event()

        def choose(jobs: Sequence[int]) -> list[int]:
            choosing.set()
            assert go_on.wait(PATIENCE_S)
            return list(range(len(jobs)))

        batcher = make(choose)
        first = asyncio.create_task(batcher.run([1], NOW))
        assert await asyncio.to_thread(choosing.wait, PATIENCE_S)
        second = asyncio.create_task(batcher.run([2], NOW))
        await queued(batcher, 2)
        go_on.set()
        assert results(await first) + results(await second) == [2, 4]
        assert device.batches == [[1], [2]]


class TestClosing:
    async def test_what_is_queued_fails_and_what_runs_is_answered(
        self, make: Make, device: Device
    ) -> None:
        batcher = make()
        first = await occupied(batcher, device)
        second = asyncio.create_task(batcher.run([1, 2], NOW))
        await queued(batcher, 2)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        while not batcher._closed:
            await asyncio.sleep(0)
        device.release.set()
        await closing
        assert results(await first) == [0]
        assert results(await second) == ["engine_unavailable"] * 2

    async def test_a_closed_batcher_refuses(self, make: Make) -> None:
        batcher = make()
        batcher.close()
        batcher.close()
        with pytest.raises(EngineUnavailable):
            await batcher.run([1], NOW)

    async def test_no_thread_is_left(self, make: Make) -> None:
        before = threading.active_count()
        batchers = [make() for _ in range(5)]
        assert threading.active_count() == before + 5
        for batcher in batchers:
            batcher.close()
        assert threading.active_count() == before


def test_many_threads_with_event_loops_of_their_own(make: Make, device: Device) -> None:
    batcher = make(lambda jobs: range(min(3, len(jobs))))
    device.bad = {7}
    found: dict[int, list[Any]] = {}

    def caller(number: int) -> None:
        async def ask() -> list[Any]:
            answers = await asyncio.gather(
                *(batcher.run([number, 100 + number], NOW) for _ in range(20))
            )
            return [results(answer) for answer in answers]

        found[number] = asyncio.run(ask())

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in range(8):
        first = "engine_error" if number == 7 else 2 * number
        assert found[number] == [[first, 200 + 2 * number]] * 20


def test_a_caller_whose_loop_is_gone_disturbs_nobody(make: Make, device: Device) -> None:
    batcher = make()
    device.hold()

    async def leave() -> None:
        task = asyncio.create_task(batcher.run([1], NOW))
        await device.reached()
        task.cancel()

    asyncio.run(leave())
    device.release.set()
    assert results(asyncio.run(batcher.run([2], NOW))) == [4]
