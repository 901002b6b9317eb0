"""Receipts: what a group cost, one a role and pool."""

import pytest

from rewardd.core.calls import EngineCard, Failure, Output, ScoreOutput, Usage
from rewardd.errors import EngineError
from rewardd.ledger import Ledger
from rewardd_types import GroupReward, Receipt

CARD = EngineCard("torch", "2", model="m", revision="r1", dtype="float32", template_hash="t")


def spent(**usage: float) -> Output:
    return Output(usage=Usage(**usage))  # type: ignore[arg-type]


def test_a_receipt_says_where_a_value_came_from() -> None:
    ledger = Ledger(1)
    ledger.enter(0, "reward", "main", CARD, spent(tokens_total=5, tokens_computed=3))
    (receipt,) = ledger.receipts(0)
    assert (receipt.role, receipt.pool) == ("reward", "main")
    assert (receipt.model, receipt.revision, receipt.dtype) == ("m", "r1", "float32")
    assert (receipt.engine, receipt.engine_version, receipt.template_hash) == ("torch", "2", "t")
    assert (receipt.tokens_total, receipt.tokens_computed) == (5, 3)


def test_tokens_add_up_and_times_do_not() -> None:
    """Calls of one batch wait and compute side by side."""
    ledger = Ledger(1)
    one = {"tokens_total": 5, "tokens_computed": 3, "tokens_reused": 2, "queue_ms": 1.0}
    other = {"tokens_total": 7, "tokens_computed": 7, "queue_ms": 4.0, "compute_ms": 2.0}
    for usage in (one, other):
        ledger.enter(0, "reward", "main", CARD, spent(**usage))
    (receipt,) = ledger.receipts(0)
    assert receipt.tokens_total == 12
    assert (receipt.tokens_computed, receipt.tokens_reused) == (10, 2)
    assert (receipt.queue_ms, receipt.compute_ms) == (4.0, 2.0)


def test_one_cut_input_marks_the_whole() -> None:
    ledger = Ledger(1)
    for usage in (Usage(truncated=True, tokens_dropped=3, bos_count=2), Usage(bos_count=1)):
        ledger.enter(0, "reward", "main", CARD, Output(usage=usage))
    (receipt,) = ledger.receipts(0)
    assert (receipt.truncated, receipt.tokens_dropped, receipt.bos_count) == (True, 3, 2)


def test_roles_pools_and_groups_are_kept_apart() -> None:
    ledger = Ledger(2)
    for group, role, pool in [(0, "a", "x"), (0, "b", "x"), (0, "a", "y"), (1, "a", "x")]:
        ledger.enter(group, role, pool, CARD, spent(tokens_total=1))
    assert [(r.role, r.pool) for r in ledger.receipts(0)] == [("a", "x"), ("b", "x"), ("a", "y")]
    assert [r.tokens_total for r in ledger.receipts(1)] == [1]


def test_a_failure_leaves_no_receipt() -> None:
    ledger = Ledger(1)
    ledger.enter(0, "reward", "main", CARD, Failure(EngineError("no").info))
    assert ledger.receipts(0) == []


@pytest.mark.parametrize("times", [1, 3])
def test_receipts_of_a_composed_model_are_entered_as_its_own(times: int) -> None:
    below = [
        Receipt("reward", pool, "m", "r1", "torch", "2", "float32", tokens_total=4)
        for pool in ("x", "y")
    ]
    ledger = Ledger(1)
    for _ in range(times):
        output = ScoreOutput(reward=GroupReward(rewards=[], receipts=below))
        ledger.enter(0, "some-model", "some-model", None, output)
    assert [(r.pool, r.tokens_total) for r in ledger.receipts(0)] == [
        ("x", 4 * times),
        ("y", 4 * times),
    ]
