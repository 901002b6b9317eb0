"""The flow machine: rounds that settle, errors that choose themselves, paths that replay."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardd.core.calls import Call, Execute, ExecuteOutput, Failure, Output
from rewardd.core.flow import Failed, Flow, Machine, Path, ask, attempt, gather, play
from rewardd.errors import EngineError, MethodFailed, RewarddError, Unscorable


def call(name: str) -> Execute:
    return Execute("verifier", name, {})


def echo(asked: Call[Any]) -> Output | Failure:
    """Answers with the function's name; one that starts with `bad` fails."""
    assert isinstance(asked, Execute)
    if asked.function.startswith("bad"):
        return Failure(EngineError(asked.function).info)
    return ExecuteOutput(result=asked.function)


def word(name: str) -> Flow[Any]:
    output = yield from ask(call(name))
    return output.result


def test_ask_gives_the_output_of_its_call() -> None:
    assert play(word("one"), echo) == "one"


def test_a_flow_without_calls_is_done_at_once() -> None:
    def nothing() -> Flow[int]:
        return 7
        yield

    assert play(nothing(), echo) == 7


def test_gather_keeps_the_order_of_its_flows_whatever_finishes_first() -> None:
    machine = Machine(gather([word("a"), word("b"), word("c")]))
    ready = machine.take()
    for path, asked in reversed(ready):
        assert not machine.done
        machine.settle(path, echo(asked))
    assert machine.result() == ["a", "b", "c"]


def test_an_empty_round_is_an_empty_list() -> None:
    assert play(gather([]), echo) == []


def test_all_items_of_a_round_settle_before_the_error_is_thrown() -> None:
    finished: list[str] = []

    def slow(name: str) -> Flow[None]:
        for step in range(3):
            yield from ask(call(f"{name}{step}"))
        finished.append(name)

    with pytest.raises(EngineError, match="bad"):
        play(gather([word("bad"), slow("x"), slow("y")]), echo)
    assert finished == ["x", "y"]


def test_the_error_of_the_lowest_index_is_thrown_though_it_came_last() -> None:
    machine = Machine(gather([word("fine"), word("bad-1"), word("bad-2")]))
    for path, asked in reversed(machine.take()):
        machine.settle(path, echo(asked))
    with pytest.raises(EngineError, match="bad-1"):
        machine.result()


def test_attempt_turns_a_failure_into_a_value_and_spares_the_siblings() -> None:
    outcomes = play(gather([attempt(word("bad")), attempt(word("good"))]), echo)
    assert isinstance(outcomes[0], Failed)
    assert isinstance(outcomes[0].error, EngineError)
    assert outcomes[1] == "good"


def test_a_failure_is_raised_as_the_class_of_its_code() -> None:
    with pytest.raises(Unscorable):
        play(word("x"), lambda asked: Failure(Unscorable("nothing here").info))


def test_a_flow_may_catch_the_failure_of_its_round_and_go_on() -> None:
    def careful() -> Flow[str]:
        try:
            yield from gather([word("ok"), word("bad")])
        except EngineError:
            return str((yield from word("recovered")))
        return "not reached"

    assert play(careful(), echo) == "recovered"


@pytest.mark.parametrize(
    ("yielded", "hint"),
    [(call("x"), r"yield from ask\(\.\.\.\)"), ([1], r"yield from gather\(\[\.\.\.\]\)")],
)
def test_a_bare_yield_is_refused_with_what_to_write(yielded: object, hint: str) -> None:
    def wrong() -> Flow[None]:
        yield yielded

    with pytest.raises(MethodFailed, match=hint):
        play(wrong(), echo)


def test_ask_refuses_what_is_no_call() -> None:
    with pytest.raises(MethodFailed, match="`ask` takes a call, not a str"):
        play(ask("x"), echo)  # type: ignore[arg-type]


def test_a_round_of_no_flows_fails_its_own_flow_only() -> None:
    def wrong() -> Flow[Any]:
        return (yield from gather(7))  # type: ignore[arg-type]

    outcomes = play(gather([attempt(wrong()), attempt(word("sibling"))]), echo)
    assert isinstance(outcomes[0], Failed)
    assert outcomes[1] == "sibling"


def test_a_round_takes_any_iterable_of_flows() -> None:
    names = ["a", "b"]
    assert play(gather(word(name) for name in names), echo) == names  # type: ignore[arg-type]


def test_close_closes_every_open_flow_innermost_first() -> None:
    closed: list[str] = []

    def watched(name: str, inner: Flow[Any]) -> Flow[Any]:
        try:
            return (yield from inner)
        finally:
            closed.append(name)

    leaves = [watched("leaf-0", word("a")), watched("leaf-1", word("b"))]
    machine = Machine(watched("root", gather([watched("middle", gather(leaves))])))
    machine.take()
    machine.close()
    assert closed == ["leaf-1", "leaf-0", "middle", "root"]


def test_play_closes_the_flow_when_the_answer_raises() -> None:
    closed: list[bool] = []

    def watched() -> Flow[Any]:
        try:
            return (yield from word("a"))
        finally:
            closed.append(True)

    def broken(asked: Call[Any]) -> Output | Failure:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(watched(), broken)
    assert closed == [True]


def test_a_thousand_calls_of_a_round_are_ready_together() -> None:
    machine = Machine(gather([word(str(i)) for i in range(1000)]))
    ready = machine.take()
    assert [path for path, _ in ready] == [(0, i, 0) for i in range(1000)]
    for path, asked in ready:
        machine.settle(path, echo(asked))
    assert machine.result() == [str(i) for i in range(1000)]


def test_rounds_nest_a_hundred_deep() -> None:
    def nested(depth: int) -> Flow[Any]:
        if depth == 0:
            return (yield from word("bottom"))
        return (yield from gather([nested(depth - 1)]))[0]

    assert play(nested(100), echo) == "bottom"


def test_flows_nest_a_hundred_deep() -> None:
    def nested(depth: int) -> Flow[Any]:
        return (yield from (nested(depth - 1) if depth else word("bottom")))

    assert play(nested(100), echo) == "bottom"


def test_flows_nested_without_end_are_an_error_and_not_a_crash() -> None:
    def endless() -> Flow[Any]:
        return (yield from endless())

    outcomes = play(gather([attempt(endless()), attempt(word("sibling"))]), echo)
    assert isinstance(outcomes[0], Failed)
    assert isinstance(outcomes[0].error, RecursionError)
    assert outcomes[1] == "sibling"


def random_flow(rng: random.Random, depth: int) -> Flow[Any]:
    """Rounds, sequences, attempts and errors as the seed says; an rng forked for each child."""
    results: list[Any] = []
    for _ in range(rng.randint(0, 3)):
        kind = rng.choice(["ask", "gather", "attempt"])
        if kind == "ask" or depth == 0:
            output = yield from attempt(ask(call(f"f{rng.randrange(1000)}")))
            results.append(repr(output))
            if isinstance(output, Failed) and rng.random() < 0.3:
                raise output.error
            continue
        seeds = [rng.randrange(2**32) for _ in range(rng.randint(0, 4))]
        children = [random_flow(random.Random(seed), depth - 1) for seed in seeds]
        if kind == "attempt":
            results.append([repr(r) for r in (yield from gather([attempt(c) for c in children]))])
        else:
            results.append((yield from gather(children)))
    return results


Journal = dict[Path, tuple[Call[Any], Output | Failure]]


def run(seed: int, order: random.Random, answer: Callable[[Path, Call[Any]], Any]) -> Any:
    """Drive a random flow, settling what is ready in an order of its own."""
    machine = Machine(random_flow(random.Random(seed), 3))
    waiting: list[tuple[Path, Call[Any]]] = []
    while not machine.done:
        waiting += machine.take()
        path, asked = waiting.pop(order.randrange(len(waiting)))
        machine.settle(path, answer(path, asked))
    try:
        return machine.result()
    except RewarddError as error:
        return repr(error)


def recorded(seed: int, order: int, failures: int) -> tuple[Any, Journal]:
    """A run whose calls fail by chance (of the path, as chance on a replay would differ)."""
    journal: Journal = {}

    def answer(path: Path, asked: Call[Any]) -> Output | Failure:
        luck = random.Random(f"{failures}{path}").random()
        bad = Failure(EngineError(f"lost at {path}").info)
        outcome = bad if luck < 0.2 else ExecuteOutput(result=luck)
        assert path not in journal
        journal[path] = (asked, outcome)
        return outcome

    return run(seed, random.Random(order), answer), journal


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), orders=st.tuples(st.integers(), st.integers()))
def test_a_replay_from_the_journal_is_identical_and_asks_nothing_new(
    seed: int, orders: tuple[int, int]
) -> None:
    result, journal = recorded(seed, orders[0], failures=seed)
    replayed: Journal = {}

    def from_journal(path: Path, asked: Call[Any]) -> Output | Failure:
        call_then, outcome = journal[path]
        assert asked == call_then
        replayed[path] = (asked, outcome)
        return outcome

    assert run(seed, random.Random(orders[1]), from_journal) == result
    assert replayed == journal


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), orders=st.tuples(st.integers(), st.integers()))
def test_the_order_of_settling_changes_neither_result_nor_paths(
    seed: int, orders: tuple[int, int]
) -> None:
    assert recorded(seed, orders[0], failures=seed) == recorded(seed, orders[1], failures=seed)
