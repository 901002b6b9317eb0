"""Flows: reward methods as pure generators, and the machine that advances them.

A flow yields what it wants and receives what came of it; it never awaits, opens or imports an
engine. `ask` wants one call, `gather` runs flows side by side (one round), `attempt` turns a
failure into a value, `yield from` composes:

    def margin(good: Input, bad: Input) -> Flow[float]:
        better, worse = yield from gather([ask(Pool("reward", good)), ask(Pool("reward", bad))])
        return better.values[0][0] - worse.values[0][0]

All items of a round settle before the flow goes on. If any failed, the error of the lowest index
is thrown into the flow. This makes a replay exact: neither time nor batching can change the order
in which a flow learns things.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from rewardd.core.calls import Call, Failure, O_co, Output
from rewardd.errors import MethodFailed, from_info

T = TypeVar("T")

Flow: TypeAlias = Generator[Any, Any, T]
Path: TypeAlias = tuple[int, ...]
"""Where a call stands in its flow: round, index, round, index, ... Stable across replays."""


@dataclass(frozen=True, slots=True)
class _Ask:
    call: Call[Any]


@dataclass(frozen=True, slots=True)
class _Gather:
    flows: Sequence[Flow[Any]]


@dataclass(frozen=True, slots=True)
class Failed:
    """What `attempt` gives in place of a result."""

    error: Exception


def ask(call: Call[O_co]) -> Flow[O_co]:
    """Send one call; the flow goes on with its output, or with its failure raised."""
    output: O_co = yield _Ask(call)
    return output


def gather(flows: Sequence[Flow[T]]) -> Flow[list[T]]:
    """Run flows side by side; results come in the order of `flows`."""
    results: list[T] = yield _Gather(list(flows))
    return results


def attempt(flow: Flow[T]) -> Flow[T | Failed]:
    """The result of `flow`, or its failure as a value."""
    try:
        return (yield from flow)
    except Exception as error:
        return Failed(error)


@dataclass(slots=True)
class _Frame:
    """A running flow: where it stands and which results of its round are still to come."""

    flow: Flow[Any]
    path: Path
    parent: "_Frame | None" = None
    slot: int = 0
    round: int = -1
    waiting: int = 0
    results: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Thrown:
    error: BaseException


class Machine(Generic[T]):
    """Advances one flow and everything nested in it. Knows no engine, no clock and no loop.

    Take the calls that are ready, settle each with its outcome, repeat until `done`.
    """

    def __init__(self, flow: Flow[T]) -> None:
        self._ready: list[tuple[Path, Call[Any]]] = []
        self._asking: dict[Path, _Frame] = {}
        self._alive: dict[int, _Frame] = {}
        self._outcome: Any = None
        self.done = False
        self._advance([(self._open(_Frame(flow, ())), None)])

    def take(self) -> list[tuple[Path, Call[Any]]]:
        """The calls that became ready since the last take."""
        ready, self._ready = self._ready, []
        return ready

    def settle(self, path: Path, outcome: Output | Failure) -> None:
        """Give the call at `path` its outcome and advance whatever waited for it."""
        frame = self._asking.pop(path)
        if isinstance(outcome, Failure):
            self._advance([(frame, _Thrown(from_info(outcome.error)))])
        else:
            self._advance([(frame, outcome)])

    def result(self) -> T:
        """The flow's result; raises what the flow raised."""
        if isinstance(self._outcome, _Thrown):
            raise self._outcome.error
        result: T = self._outcome
        return result

    def close(self) -> None:
        """Close all open flows, innermost first."""
        for frame in reversed(list(self._alive.values())):
            frame.flow.close()
        self._alive.clear()

    def _open(self, frame: _Frame) -> _Frame:
        self._alive[id(frame)] = frame
        return frame

    def _advance(self, work: list[tuple[_Frame, Any]]) -> None:
        while work:
            frame, value = work.pop()
            try:
                request = _resume(frame.flow, value)
            except StopIteration as stop:
                work.extend(self._finish(frame, stop.value))
            except Exception as error:
                work.extend(self._finish(frame, _Thrown(error)))
            else:
                work.extend(self._start(frame, request))

    def _start(self, frame: _Frame, request: Any) -> list[tuple[_Frame, Any]]:
        frame.round += 1
        if isinstance(request, _Ask) and isinstance(request.call, Call):
            path = (*frame.path, frame.round)
            self._asking[path] = frame
            self._ready.append((path, request.call))
            return []
        if isinstance(request, _Gather):
            return self._start_round(frame, request.flows)
        return [(frame, _Thrown(_bare_yield(request)))]

    def _start_round(self, frame: _Frame, flows: Sequence[Flow[Any]]) -> list[tuple[_Frame, Any]]:
        if not flows:
            return [(frame, [])]
        frame.waiting, frame.results = len(flows), [None] * len(flows)
        children = [
            self._open(_Frame(flow, (*frame.path, frame.round, index), frame, index))
            for index, flow in enumerate(flows)
        ]
        return [(child, None) for child in reversed(children)]

    def _finish(self, frame: _Frame, outcome: Any) -> list[tuple[_Frame, Any]]:
        del self._alive[id(frame)]
        parent = frame.parent
        if parent is None:
            self._outcome, self.done = outcome, True
            return []
        parent.results[frame.slot] = outcome
        parent.waiting -= 1
        if parent.waiting:
            return []
        failed = next((item for item in parent.results if isinstance(item, _Thrown)), None)
        return [(parent, failed if failed is not None else parent.results)]


def _resume(flow: Flow[Any], value: Any) -> Any:
    return flow.throw(value.error) if isinstance(value, _Thrown) else flow.send(value)


def _bare_yield(request: Any) -> MethodFailed:
    if isinstance(request, _Ask):
        return MethodFailed(f"`ask` takes a call, not a {type(request.call).__name__}")
    hint = "ask(...)" if isinstance(request, Call) else "gather([...])"
    return MethodFailed(
        f"a flow yielded a bare {type(request).__name__}; write `yield from {hint}`"
    )


def play(flow: Flow[T], answer: Callable[[Call[Any]], Output | Failure]) -> T:
    """Run a flow against a function: how methods are tested without an engine or a loop."""
    machine = Machine(flow)
    try:
        while not machine.done:
            for path, call in machine.take():
                machine.settle(path, answer(call))
        return machine.result()
    finally:
        machine.close()
