"""What every registered method must do, whatever it computes."""

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from rewardd.core.calls import (
    Call,
    Execute,
    ExecuteOutput,
    Failure,
    Logprobs,
    LogprobsOutput,
    Output,
    Pool,
    PoolOutput,
    Score,
    ScoreOutput,
)
from rewardd.core.flow import play
from rewardd.core.registry import MethodSpec
from rewardd.errors import EngineError, RewarddError
from rewardd_types import Criterion, Group, GroupReward, Response, Reward
from tests.methods.canned import SPECS

NAMES = sorted(SPECS)
REQUIRED_PARAMS: dict[str, dict[str, Any]] = {"weighted": {"models": {"a": 1.0, "b": 0.5}}}
"""Methods whose parameters have no complete defaults."""

FORBIDDEN = ["torch", "transformers", "vllm", "redis", "fastapi", "math_verify", "httpx"]


def group_of(count: int) -> Group:
    """Every field that a method may read, and responses that differ in length."""
    responses = [
        Response(id=f"r{i}", content=f"#{i}#\n" + "step\n" * i + f"\\boxed{{{i}}}")
        for i in range(count)
    ]
    rubric = [Criterion(text="right", id="right"), Criterion(text="rude", weight=-0.5)]
    return Group(
        prompt="q",
        responses=responses,
        reference="3",
        rubric=rubric,
        principle="be right",
        context="c",
        persona="p",
    )


def canned(call: Call[Any]) -> Output | Failure:
    """An answer of the right shape, made of the call alone."""
    size = len(msgspec.json.encode(call))
    match call:
        case Pool():
            steps = call.input.reply.steps if call.input.reply else None
            if call.task == "token_classify":
                return PoolOutput(values=[[0.1, size % 7 / 3] for _ in steps or []])
            return PoolOutput(values=[[size % 11 / 3]])
        case Logprobs():
            over = [-2.5, -3.0] if call.over_vocabulary else []
            labels = [-0.5 - i for i, _ in enumerate(call.labels)]
            return LogprobsOutput(
                token_ids=[1, 2],
                logprobs=[-0.1, -0.2],
                labels=labels,
                over_vocabulary=over,
                vocabulary=8,
            )
        case Execute():
            return ExecuteOutput(result={"right": True, "parsed": True, "bad_gold": None})
        case Score():
            rewards = [Reward(id=r.id, value=1.0 + size % 3) for r in call.group.responses]
            return ScoreOutput(reward=GroupReward(rewards=rewards))
    raise AssertionError(f"no canned answer for {call}")


def run(spec: MethodSpec, group: Group, answer: Any = canned) -> GroupReward:
    params = spec.parse(REQUIRED_PARAMS.get(spec.name, {}), None)
    return play(spec.flow(group, params), answer)


@pytest.fixture(params=NAMES)
def spec(request: pytest.FixtureRequest) -> MethodSpec:
    return SPECS[request.param]


def test_it_says_what_it_is(spec: MethodSpec) -> None:
    assert spec.summary
    assert spec.gives
    assert spec.family == spec.function.__module__.split(".")[-2]
    assert spec.name == spec.function.__module__.split(".")[-1]
    assert all(field in Group.__struct_fields__ for field in spec.reads)


def test_its_parameters_have_a_schema_with_bounds(spec: MethodSpec) -> None:
    schema = msgspec.json.schema(spec.params)
    loose: list[str] = []

    def look(node: Any, path: str) -> None:
        if not isinstance(node, dict):
            return
        kind = node.get("type")
        if kind in ("integer", "number") and not node.keys() & {"maximum", "exclusiveMaximum"}:
            loose.append(path)
        if kind == "string" and not node.keys() & {"maxLength", "enum"}:
            loose.append(path)
        if kind == "array" and "maxItems" not in node:
            loose.append(path)
        for key, below in node.items():
            for item in below if isinstance(below, list) else [below]:
                look(item, f"{path}.{key}")

    look(schema, "$")
    assert loose == []


@pytest.mark.parametrize("count", [0, 1, 8])
def test_it_rewards_each_response_under_its_id(spec: MethodSpec, count: int) -> None:
    group = group_of(count)
    reward = run(spec, group)
    assert [r.id for r in reward.rewards] == [r.id for r in group.responses]
    assert all(r.status == "ok" and isinstance(r.value, float) for r in reward.rewards)
    if "preference" in spec.gives:
        assert reward.preference is not None
        assert [len(row) for row in reward.preference] == [count] * count
    if "steps" in spec.gives:
        assert all(r.steps for r in reward.rewards)
    if "verdicts" in spec.gives:
        assert all(r.components for r in reward.rewards)


def test_it_is_deterministic(spec: MethodSpec) -> None:
    assert run(spec, group_of(8)) == run(spec, group_of(8))


def test_it_asks_declared_roles_only_and_the_same_calls_each_time(spec: MethodSpec) -> None:
    params = spec.parse(REQUIRED_PARAMS.get(spec.name, {}), None)
    allowed = {*spec.roles, *spec.uses(params)}
    asked: list[list[Call[Any]]] = [[], []]
    for calls in asked:

        def answer(call: Call[Any], calls: list[Call[Any]] = calls) -> Output | Failure:
            calls.append(call)
            return canned(call)

        run(spec, group_of(8), answer)
    assert asked[0] == asked[1]
    assert {call.role for call in asked[0]} == allowed


def test_its_calls_and_rewards_are_plain_data(spec: MethodSpec) -> None:
    def answer(call: Call[Any]) -> Output | Failure:
        decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(call), type=type(call))
        assert decoded == call
        return canned(call)

    reward = run(spec, group_of(3), answer)
    assert msgspec.json.decode(msgspec.json.encode(reward), type=GroupReward) == reward


def test_every_reward_carries_the_same_metrics_errors_included(spec: MethodSpec) -> None:
    rewards = run(spec, group_of(8), failing_for("#3#")).rewards
    assert {frozenset(reward.metrics) for reward in rewards} == {frozenset(spec.metrics)}


def failing_for(mark: str) -> Any:
    """Fails the calls about one response; a sub-model gives that response an error."""
    lost = EngineError("lost").info

    def answer(call: Call[Any]) -> Output | Failure:
        if isinstance(call, Score):
            rewards = [
                Reward(id=r.id, status="error", error=lost)
                if mark in (r.content or "")
                else Reward(id=r.id, value=1.0)
                for r in call.group.responses
            ]
            return ScoreOutput(reward=GroupReward(rewards=rewards))
        about = msgspec.json.encode(call).decode()
        return Failure(lost) if mark in about or '"answer":"3"' in about else canned(call)

    return answer


def test_one_failing_call_among_eight_is_one_error_and_seven_values(spec: MethodSpec) -> None:
    rewards = run(spec, group_of(8), failing_for("#3#")).rewards
    assert [r.status for r in rewards] == ["ok"] * 3 + ["error"] + ["ok"] * 4
    assert [r.value is None for r in rewards] == [i == 3 for i in range(8)]
    assert rewards[3].error is not None
    assert rewards[3].error.code == "engine_error"


def test_when_every_call_fails_no_value_is_invented(spec: MethodSpec) -> None:
    rewards = run(spec, group_of(3), lambda call: Failure(EngineError("lost").info)).rewards
    assert [(r.value, r.status) for r in rewards] == [(None, "error")] * 3


def test_a_missing_field_that_it_reads_is_refused(spec: MethodSpec) -> None:
    bare = Group(prompt="q", responses=[Response(content="a")])
    if spec.reads:
        with pytest.raises(RewarddError) as caught:
            run(spec, bare)
        assert caught.value.code == "missing_field"
    else:
        assert run(spec, bare).rewards[0].status == "ok"


def test_importing_all_methods_loads_no_engine_library() -> None:
    script = (
        "import sys\n"
        "from rewardd import methods\n"
        "from rewardd.core.registry import discover\n"
        "print(len(discover(methods)))\n"
        f"print(sorted(set({FORBIDDEN}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == [str(len(NAMES)), "[]"]
