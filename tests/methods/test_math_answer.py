"""The verifiable reward; what Math-Verify itself says is in tests/engines/test_sandbox.py."""

from typing import Any

import pytest

from rewardd.core.calls import Execute, ExecuteOutput, Failure, Output
from rewardd.errors import EngineError, ExecutionTimeout
from rewardd_types import Reward
from tests.methods.canned import group_of, never, run


def verdict(right: bool, parsed: bool = True, bad_gold: int | None = None) -> ExecuteOutput:
    return ExecuteOutput(result={"right": right, "parsed": parsed, "bad_gold": bad_gold})


def rewarded(content: str, answer: Any, reference: Any = "4", **params: Any) -> Reward:
    return run("math_answer", group_of(content, reference=reference), answer, **params).rewards[0]


def asked_for(content: str, reference: Any = "4", **params: Any) -> Execute:
    calls: list[Execute] = []

    def answer(call: Execute) -> Output:
        calls.append(call)
        return verdict(True)

    rewarded(content, answer, reference, **params)
    assert len(calls) == 1
    return calls[0]


def test_right_is_one_and_wrong_is_nought() -> None:
    right = rewarded(r"\boxed{4}", lambda call: verdict(True))
    wrong = rewarded(r"\boxed{5}", lambda call: verdict(False))
    assert (right.value, right.metrics) == (1.0, {"parsed": 1.0})
    assert (wrong.value, wrong.metrics) == (0.0, {"parsed": 1.0})


def test_only_the_answer_reaches_the_verifier() -> None:
    call = asked_for("We know 2 + 2 = 4.\nSo \\boxed{4}.", timeout_s=3.0)
    assert call == Execute("verifier", "math_verify", {"gold": ["4"], "answer": "4"}, 3.0)


def test_a_reply_without_an_answer_is_wrong_and_says_so() -> None:
    assert asked_for("I give up.\nSorry.").arguments["answer"] is None
    reward = rewarded("I give up.\nSorry.", lambda call: verdict(False, parsed=False))
    assert (reward.value, reward.status, reward.metrics) == (0.0, "ok", {"parsed": 0.0})


def test_references_may_be_several_and_full_solutions() -> None:
    call = asked_for("4", ["2+2 is\n#### 4", r"thus \boxed{\frac{8}{2}}", "4.0"])
    assert call.arguments["gold"] == ["4", r"\frac{8}{2}", "4.0"]


@pytest.mark.parametrize("error", [EngineError("crash"), ExecutionTimeout("killed")])
def test_a_verifier_that_fails_is_an_error_and_never_nought(error: EngineError) -> None:
    reward = rewarded("4", lambda call: Failure(error.info))
    assert (reward.value, reward.status) == (None, "error")
    assert reward.error is not None
    assert reward.error.code == error.code
    assert reward.metrics == {"parsed": None}


def test_a_reference_that_is_no_mathematics_is_the_callers_error() -> None:
    reward = rewarded("4", lambda call: verdict(False, bad_gold=0))
    assert reward.error is not None
    assert (reward.error.code, reward.error.path) == ("invalid_request", "$.reference")


def test_an_empty_list_of_references_is_refused() -> None:
    assert rewarded("4", never, []).status == "error"
