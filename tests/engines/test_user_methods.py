"""A user's own rewards as methods, driven by the runner: their code runs in the child only."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rewardd.core.calls import (
    Call,
    EngineCard,
    Failure,
    Output,
    Pool,
    PoolOutput,
    Scope,
)
from rewardd.core.registry import MethodSpec
from rewardd.engines.sandbox import SandboxEngine
from rewardd.engines.user_methods import load_user_methods
from rewardd.errors import InputTooLong, InvalidRequest, StartRefused
from rewardd.runner import Runner, ServedModel
from rewardd_types import GroupReward
from tests.methods.canned import group_of

pytestmark = pytest.mark.anyio

PLAIN = '''
import math


def reward(prompt, response, reference=None, **extra):
    """How long the response is.

    In characters.
    """
    if response == "bad":
        raise ValueError("oops")
    if response == "nan":
        return math.nan
    if response == "hang":
        while True:
            pass
    return float(len(response)) + extra.get("bonus", 0) + (reference == "plus")
'''

GENERATOR = '''
import os
from typing import Annotated

from msgspec import Meta, Struct

from rewardd.core.calls import Pool
from rewardd.core.chat import input_of
from rewardd.core.flow import Flow, ask, gather
from rewardd.core.pointwise import pointwise
from rewardd.core.registry import reward_method
from rewardd_types import Group, Response, Reward


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    repeats: Annotated[int, Meta(ge=1, le=4)] = 2
    labels: list[str] = []


@reward_method("twice", family="mine", roles=("reward",), metrics=("calls", "process"))
@pointwise
def twice(group: Group, response: Response, params: Params) -> Flow[Reward]:
    """The mean of several readings, and one more."""
    if response.content == "crash":
        os.abort()
    if response.content == "stranger":
        yield from ask(Pool("stranger", input_of(group, response)))
    call = Pool("reward", input_of(group, response))
    outputs = yield from gather([ask(call) for _ in range(params.repeats)])
    last = yield from ask(call)
    total = sum(output.values[0][0] for output in outputs) + last.values[0][0]
    count = params.repeats + 1
    return Reward(value=total / count, metrics={"calls": count, "process": float(os.getpid())})
'''


class LengthEngine:
    """Scores a response by its length; refuses one that says `long`."""

    card = EngineCard(engine="length", engine_version="1")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def supports(self, call: type[Call[Any]], task: str | None = None) -> bool:
        return True

    async def run(self, calls: Sequence[Call[Any]], scope: Scope) -> list[Output | Failure]:
        self.batches.append(len(calls))
        return [self._outcome(call) for call in calls]

    def _outcome(self, call: Call[Any]) -> Output | Failure:
        assert isinstance(call, Pool)
        assert call.input.reply is not None
        content = call.input.reply.content or ""
        if content == "long":
            return Failure(InputTooLong("too long", path="$.responses").info)
        return PoolOutput(values=[[float(len(content))]])

    async def health(self) -> None: ...

    async def aclose(self) -> None: ...


async def specs_of(path: Path, text: str) -> list[MethodSpec]:
    path.write_text(text)
    engine = SandboxEngine(methods_file=path)
    try:
        return await load_user_methods(engine)
    finally:
        await engine.aclose()


async def reward(
    path: Path, text: str, group: Any, params: dict[str, Any] | None = None, processes: int = 1
) -> tuple[GroupReward, LengthEngine]:
    """What the only reward of a file gives, with a sandbox and a model as pools."""
    path.write_text(text)
    engine, length = SandboxEngine(processes, methods_file=path), LengthEngine()
    try:
        (spec,) = await load_user_methods(engine)
        roles = {"user": "sandbox", **dict.fromkeys(spec.roles[1:], "length")}
        model = ServedModel(spec.name, spec, roles, {})
        runner = Runner({spec.name: model}, {"sandbox": engine, "length": length})
        return (await runner.reward(model, [group], Scope(), params))[0], length
    finally:
        await engine.aclose()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.py"


async def test_a_plain_function_becomes_a_method(path: Path) -> None:
    (spec,) = await specs_of(path, PLAIN)
    assert (spec.name, spec.family, spec.roles) == ("reward", "user", ("user",))
    assert spec.summary == "How long the response is."
    assert len(spec.revision) == 12


async def test_the_users_code_is_never_imported_by_the_server(path: Path) -> None:
    await specs_of(path, PLAIN)
    assert "rewardd_user_methods" not in sys.modules
    assert str(path.parent) not in sys.path


async def test_a_plain_function_rewards_each_response_and_failures_are_items(path: Path) -> None:
    group = group_of("a", "bad", "nan", "hang", "ccc", reference="plus", extra={"bonus": 10})
    result, _ = await reward(path, PLAIN, group, {"timeout_s": 1.0})
    assert [r.value for r in result.rewards] == [12.0, None, None, None, 14.0]
    codes = [r.error.code for r in result.rewards if r.error]
    assert codes == ["method_failed", "non_finite", "execution_timeout"]
    assert [receipt.role for receipt in result.receipts] == ["user"]


async def test_a_generator_runs_in_the_child_and_its_calls_in_the_server(path: Path) -> None:
    result, length = await reward(path, GENERATOR, group_of("a", "bbb"))
    assert [r.value for r in result.rewards] == [1.0, 3.0]
    assert [r.id for r in result.rewards] == ["r0", "r1"]
    assert {r.metrics["calls"] for r in result.rewards} == {3.0}
    assert length.batches == [4, 2], "a round of the group is one list"
    assert {receipt.role for receipt in result.receipts} == {"user", "reward"}


async def test_a_generators_legs_meet_the_same_child(path: Path) -> None:
    path.write_text(GENERATOR)
    engine, length = SandboxEngine(2, methods_file=path), LengthEngine()
    try:
        (spec,) = await load_user_methods(engine)
        model = ServedModel("twice", spec, {"user": "sandbox", "reward": "length"}, {})
        runner = Runner({"twice": model}, {"sandbox": engine, "length": length})
        groups = [group_of("a", "bb") for _ in range(12)]
        results = await runner.reward(model, groups, Scope())
    finally:
        await engine.aclose()
    assert [[r.value for r in result.rewards] for result in results] == [[1.0, 2.0]] * 12
    processes = {result.rewards[0].metrics["process"] for result in results}
    assert len(processes) == 2


async def test_a_failed_call_is_raised_inside_the_generator_as_what_it_was(path: Path) -> None:
    result, _ = await reward(path, GENERATOR, group_of("a", "long", "cc"))
    assert [r.value for r in result.rewards] == [1.0, None, 2.0]
    error = result.rewards[1].error
    assert error is not None
    assert (error.code, error.path) == ("input_too_long", "$.responses")


async def test_params_are_checked_where_their_type_is(path: Path) -> None:
    _, length = await reward(path, GENERATOR, group_of("a"), {"repeats": 4})
    assert length.batches == [4, 1]
    refused, _ = await reward(path, GENERATOR, group_of("a"), {"repeats": 5})
    assert refused.rewards[0].error is not None
    assert refused.rewards[0].error.code == "invalid_request"
    with pytest.raises(InvalidRequest):
        await reward(path, GENERATOR, group_of("a"), {"unknown": 1})


async def test_a_generator_that_crashes_is_an_error(path: Path) -> None:
    result, _ = await reward(path, GENERATOR, group_of("a", "crash"))
    assert [r.status for r in result.rewards] == ["error", "error"]
    assert result.rewards[0].error is not None
    assert result.rewards[0].error.code == "engine_error"


async def test_a_role_that_was_not_declared_is_an_error_of_its_response(path: Path) -> None:
    result, _ = await reward(path, GENERATOR, group_of("a", "stranger"))
    assert [r.value for r in result.rewards] == [1.0, None]
    assert result.rewards[1].error is not None
    assert "stranger" in result.rewards[1].error.message


async def test_a_session_whose_child_died_is_a_failed_method(path: Path) -> None:
    path.write_text(GENERATOR)
    engine = SandboxEngine(methods_file=path)

    class Killer(LengthEngine):
        async def run(self, calls: Sequence[Call[Any]], scope: Scope) -> list[Output | Failure]:
            for child in engine._children:
                assert child is not None
                await child.kill()
            return await super().run(calls, scope)

    try:
        (spec,) = await load_user_methods(engine)
        model = ServedModel("twice", spec, {"user": "sandbox", "reward": "killer"}, {})
        runner = Runner({"twice": model}, {"sandbox": engine, "killer": Killer()})
        (result,) = await runner.reward(model, [group_of("a")], Scope())
    finally:
        await engine.aclose()
    assert result.rewards[0].error is not None
    assert result.rewards[0].error.code == "method_failed"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1", "holds no reward"),
        ("def reward(:", "SyntaxError"),
        ("import absent_module", "absent_module"),
        ("async def reward(prompt, response): ...", "must be a plain function"),
        ("REWARDS = {'a b': len}", "no name of a function"),
        ("REWARDS = [len]", "is a dict"),
        ("import os; os.abort()", "died"),
        ("import sys; sys.exit()", "SystemExit"),
    ],
)
async def test_a_file_that_cannot_be_used_stops_the_start(
    path: Path, text: str, reason: str
) -> None:
    with pytest.raises(StartRefused, match=reason):
        await specs_of(path, text)
