"""The sandbox, with real child processes: hangs, crashes, memory and lies stay in the child."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from rewardd.core.calls import Execute, ExecuteOutput, Failure, Output, Pool, Scope
from rewardd.engines.sandbox import SandboxEngine, _Turns
from rewardd.errors import EngineUnavailable, StartRefused

pytestmark = pytest.mark.anyio

REWARDS = """
import os
import sys
import time

import neighbour


def hang(prompt, response, **extra):
    while True:
        pass


def sleep(prompt, response, **extra):
    time.sleep(60)


def big(prompt, response, **extra):
    return float(len(str(9**9**9)))


def crash(prompt, response, **extra):
    os.abort()


def leave(prompt, response, **extra):
    sys.exit(3)


def bomb(prompt, response, **extra):
    return float(len(bytearray(1 << 34)))


def echo(prompt, response, reference=None, **extra):
    print("this must not reach the pipe")
    sys.stdout.flush()
    assert sys.stdin.read() == ""
    return float(len(prompt + response + (reference or "")) + extra.get("bonus", 0))


def narrow(prompt, response, bonus):
    return bonus


def process(prompt, response, **extra):
    return float(os.getpid())


def secret(prompt, response, **extra):
    return float("REWARDD_TEST_SECRET" in os.environ)


def flood(prompt, response, **extra):
    return "x" * (80 << 20)


REWARDS = {
    "hang": hang,
    "sleep": sleep,
    "big": big,
    "crash": crash,
    "leave": leave,
    "bomb": bomb,
    "echo": echo,
    "narrow": narrow,
    "process": process,
    "secret": secret,
    "flood": flood,
    "nan": lambda prompt, response: float("nan"),
    "word": lambda prompt, response: "high",
    "none": lambda prompt, response: None,
    "true": lambda prompt, response: True,
    "raises": lambda prompt, response: neighbour.fail(),
}
"""


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    """A methods file with every way to misbehave, and a module beside it."""
    (tmp_path / "neighbour.py").write_text("def fail():\n    raise KeyError('oops')\n")
    (tmp_path / "rewards.py").write_text(REWARDS)
    return tmp_path / "rewards.py"


@asynccontextmanager
async def opened(path: Path | None = None, **options: Any) -> AsyncIterator[SandboxEngine]:
    engine = SandboxEngine(methods_file=path, **options)
    try:
        yield engine
    finally:
        await engine.aclose()


def user(name: str, timeout_s: float = 30.0, **extra: Any) -> Execute:
    arguments = {"prompt": "q", "response": "abc", "reference": "d", "extra": extra}
    return Execute("user", f"user:{name}", arguments, timeout_s)


def verify(gold: str | list[str], answer: str | None, timeout_s: float = 30.0) -> Execute:
    golds = [gold] if isinstance(gold, str) else gold
    return Execute("verifier", "math_verify", {"gold": golds, "answer": answer}, timeout_s)


def code(outcome: Output | Failure) -> str:
    assert isinstance(outcome, Failure), outcome
    return outcome.error.code


def result(outcome: Output | Failure) -> Any:
    assert isinstance(outcome, ExecuteOutput), outcome
    return outcome.result


async def one(engine: SandboxEngine, call: Execute) -> Output | Failure:
    (outcome,) = await engine.run([call], Scope())
    return outcome


RIGHT = [
    (r"\{1,3\} \cup \{2,4\}", r"\{1,2,3,4\}"),
    ("1<x<2", "(1,2)"),
    ("101", "a+2z=2z+a=101"),
    ("10%", "0.1"),
    ("0.333333", "1/3"),
    (r"\frac{1}{2}", "0.5"),
    (r"\frac12", r"\frac{1}{2}"),
    ("1234", "1,234"),
    ("x^2+2x+1", "(x+1)^2"),
    ("-7", "-7"),
]
WRONG = [
    ("(1,2)", "1<x<2"),
    ("a+2z=2z+a=101", "101"),
    ("1/3", "0.3333"),
    ("(1,2)", "(2,1)"),
    ("5", "banana"),
    ("5", "5, 6 or 7"),
    ("5", "2+2"),
]
NO_MATHEMATICS = [
    None,
    "",
    r"\frac{",
    "}{",
    "__import__('os').system('true')",
    "9" * 50_001,
]


async def test_math_verify_compares_by_value_with_the_reference_first() -> None:
    """The pairs of the facts sheet, swapped ones included: verify is not symmetric."""
    async with opened() as engine:
        right = await engine.run([verify(*pair) for pair in RIGHT], Scope())
        wrong = await engine.run([verify(*pair) for pair in WRONG], Scope())
        unread = await engine.run([verify("5", answer) for answer in NO_MATHEMATICS], Scope())
    assert [result(r) for r in right] == [{"right": True, "parsed": True, "bad_gold": None}] * 10
    assert [result(r)["right"] for r in wrong] == [False] * len(WRONG)
    assert [result(r) for r in unread] == [
        {"right": False, "parsed": False, "bad_gold": None}
    ] * len(NO_MATHEMATICS)


async def test_any_of_several_references_will_do_and_a_bad_one_is_named() -> None:
    async with opened() as engine:
        several = await one(engine, verify(["3", "4"], "4"))
        bad = await one(engine, verify(["3", r"\frac{"], "3"))
    assert result(several)["right"] is True
    assert result(bad)["bad_gold"] == 1


async def test_a_tower_of_powers_is_killed_and_the_next_call_served() -> None:
    hostile = ["9^{9^{9^{9}}}", "10^{10^{10}}", r"\sum_{n=1}^{1000000000} n^{0.5}"]
    async with opened() as engine:
        begun = time.monotonic()
        calls = [verify("1", answer, timeout_s=1.0) for answer in hostile]
        outcomes = await engine.run([*calls, verify("1", "1")], Scope())
        took = time.monotonic() - begun
    assert [code(outcome) for outcome in outcomes[:3]] == ["execution_timeout"] * 3
    assert result(outcomes[3])["right"] is True
    assert took < 60


async def test_an_unknown_function_is_refused() -> None:
    async with opened() as engine:
        outcomes = await engine.run(
            [Execute("v", "os.system", {}), Execute("v", "user:reward", {})], Scope()
        )
    assert [code(outcome) for outcome in outcomes] == ["unsupported_call"] * 2


async def test_other_calls_are_refused() -> None:
    engine = SandboxEngine()
    outcomes = await engine.run([Pool("reward", None)], Scope())  # type: ignore[arg-type]
    assert code(outcomes[0]) == "unsupported_call"
    assert engine.supports(Execute)
    assert not engine.supports(Pool)


@pytest.mark.parametrize("name", ["hang", "sleep", "big"])
async def test_a_call_that_never_ends_is_killed(rewards: Path, name: str) -> None:
    async with opened(rewards) as engine:
        hung, after = await engine.run([user(name, timeout_s=0.5), user("echo")], Scope())
    assert code(hung) == "execution_timeout"
    assert result(after) == 5.0


async def test_a_crash_is_its_own_error_and_the_child_is_replaced(rewards: Path) -> None:
    async with opened(rewards) as engine:
        before, crashed, after = await engine.run(
            [user("process"), user("crash"), user("process")], Scope()
        )
    assert code(crashed) == "engine_error"
    assert result(before) != result(after)


async def test_misbehaviour_that_python_survives_costs_no_child(rewards: Path) -> None:
    names = ["leave", "bomb", "nan", "word", "none", "raises", "flood"]
    calls = [user("process"), *map(user, names), user("process")]
    async with opened(rewards) as engine:
        before, *outcomes, after = await engine.run(calls, Scope())
    assert dict(zip(names, map(code, outcomes), strict=True)) == {
        "leave": "method_failed",
        "bomb": "method_failed",
        "nan": "non_finite",
        "word": "method_failed",
        "none": "unscorable",
        "raises": "method_failed",
        "flood": "method_failed",
    }
    messages = [o.error.message for o in outcomes if isinstance(o, Failure)]
    assert messages[1] == "MemoryError: "
    assert "returned a str" in messages[3]
    assert messages[5] == "KeyError: 'oops'"
    assert result(before) == result(after)


async def test_a_function_gets_what_it_takes_and_cannot_touch_the_pipes(rewards: Path) -> None:
    calls = [
        user("echo", bonus=10, prompt="no", reference="no"),
        user("narrow", bonus=2.5, other=1),
        user("true"),
        user("narrow"),
    ]
    async with opened(rewards) as engine:
        full, narrow, true, missing = await engine.run(calls, Scope())
    assert (result(full), result(narrow), result(true)) == (15.0, 2.5, 1.0)
    assert code(missing) == "method_failed"


async def test_a_child_sees_none_of_the_servers_secrets(
    rewards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARDD_TEST_SECRET", "hunter2")
    async with opened(rewards) as engine:
        assert result(await one(engine, user("secret"))) == 0.0


async def test_fifty_concurrent_calls_over_two_children_keep_their_answers(rewards: Path) -> None:
    async with opened(rewards, processes=2) as engine:
        calls = [user("narrow", bonus=float(i)) for i in range(50)]
        runs = [engine.run([call], Scope()) for call in calls]
        outcomes = [outcome for (outcome,) in await asyncio.gather(*runs)]
        pids = {result(o) for o in await engine.run([user("process")] * 20, Scope())}
    assert [result(outcome) for outcome in outcomes] == [float(i) for i in range(50)]
    assert 1 <= len(pids) <= 2


async def test_a_hang_in_one_child_leaves_the_other_to_its_work(rewards: Path) -> None:
    async with opened(rewards, processes=2) as engine:
        hung = asyncio.ensure_future(engine.run([user("hang", timeout_s=20.0)], Scope()))
        await asyncio.sleep(0)
        outcomes = await engine.run([user("echo")] * 20, Scope())
        assert not hung.done()
        assert [result(outcome) for outcome in outcomes] == [5.0] * 20
        hung.cancel()
        await asyncio.gather(hung, return_exceptions=True)


async def test_a_caller_who_leaves_takes_his_child_along(rewards: Path) -> None:
    async with opened(rewards) as engine:
        first = int(result(await one(engine, user("process"))))
        left = asyncio.ensure_future(engine.run([user("sleep")], Scope()))
        await asyncio.sleep(0.2)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        second = int(result(await one(engine, user("process"))))
    assert first != second
    assert not psutil.pid_exists(first)


async def test_callers_who_leave_while_waiting_lose_no_turn(rewards: Path) -> None:
    async with opened(rewards) as engine:
        waiting = [asyncio.ensure_future(engine.run([user("echo")], Scope())) for _ in range(10)]
        await asyncio.sleep(0)
        for task in waiting[1:6]:
            task.cancel()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert result(await one(engine, user("echo"))) == 5.0
    assert sum(isinstance(o, asyncio.CancelledError) for o in outcomes) == 5


async def test_a_deadline_ends_the_call_and_is_named_so(rewards: Path) -> None:
    async with opened(rewards) as engine:
        await engine.run([user("echo")], Scope())
        scope = Scope(deadline=time.monotonic() + 0.3)
        late, too_late = await engine.run([user("sleep"), user("echo")], scope)
    assert [code(late), code(too_late)] == ["deadline_exceeded"] * 2


async def test_a_child_killed_from_outside_while_idle_is_replaced(rewards: Path) -> None:
    async with opened(rewards) as engine:
        first = int(result(await one(engine, user("process"))))
        os.kill(first, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=10)
        outcomes = [await one(engine, user("process")) for _ in range(2)]
    assert isinstance(outcomes[1], ExecuteOutput)


async def test_closing_leaves_no_process_behind(rewards: Path) -> None:
    async with opened(rewards, processes=2) as engine:
        outcomes = await engine.run([user("process")] * 10, Scope())
    assert not any(psutil.pid_exists(int(result(outcome))) for outcome in outcomes)
    assert code(await one(engine, user("echo"))) == "engine_unavailable"
    with pytest.raises(EngineUnavailable):
        await engine.health()


async def test_health_starts_a_child_when_none_runs(rewards: Path) -> None:
    async with opened(rewards) as engine:
        await engine.health()
        assert result(await one(engine, user("echo"))) == 5.0
        await engine.health()


async def test_arguments_that_are_no_plain_data_fail_their_call_only(rewards: Path) -> None:
    async with opened(rewards) as engine:
        bad, good = await engine.run([user("echo", bonus=object()), user("echo")], Scope())
    assert code(bad) == "invalid_request"
    assert result(good) == 5.0


async def test_a_receipt_can_name_the_file(rewards: Path) -> None:
    card = SandboxEngine(methods_file=rewards).card
    assert (card.engine, card.model, len(card.revision)) == ("sandbox", "rewards.py", 12)
    with pytest.raises(StartRefused, match="no methods file"):
        SandboxEngine(methods_file=rewards.parent / "absent.py")


async def test_turns_come_in_order_and_those_who_leave_lose_none() -> None:
    turns = _Turns(1)
    assert await turns.take(None) == 0
    waiting = [asyncio.ensure_future(turns.take(wanted)) for wanted in (None, 0, None)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert len(turns._waiting) == 2
    turns.give(0)
    assert await waiting[1] == 0
    turns.give(0)
    waiting[2].cancel()  # in the tick in which it was given the slot
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await asyncio.wait_for(turns.take(0), timeout=10) == 0


async def test_a_turn_for_one_slot_waits_for_that_slot() -> None:
    turns = _Turns(2)
    assert {await turns.take(None), await turns.take(None)} == {0, 1}
    wanted = asyncio.ensure_future(turns.take(1))
    await asyncio.sleep(0)
    turns.give(0)
    await asyncio.sleep(0)
    assert not wanted.done()
    turns.give(1)
    assert await wanted == 1
    assert await turns.take(None) == 0
