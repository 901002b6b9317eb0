"""Receipts: what each group's rewards cost and where they came from, one a role."""

import msgspec

from rewardd.core.calls import EngineCard, Failure, Output, ScoreOutput
from rewardd_types import Receipt


class Ledger:
    """Adds up the usage of calls by group and role."""

    def __init__(self, num_groups: int) -> None:
        self._pages: list[dict[tuple[str, str], Receipt]] = [{} for _ in range(num_groups)]

    def enter(
        self, group: int, role: str, pool: str, card: EngineCard | None, outcome: Output | Failure
    ) -> None:
        """Record one outcome of `group`; a composed model's receipts are entered as its own."""
        if isinstance(outcome, ScoreOutput):
            for receipt in outcome.reward.receipts:
                self._add(group, receipt)
        elif isinstance(outcome, Output) and card is not None:
            self._add(group, _receipt(role, pool, card, outcome))

    def receipts(self, group: int) -> list[Receipt]:
        return list(self._pages[group].values())

    def _add(self, group: int, receipt: Receipt) -> None:
        page, key = self._pages[group], (receipt.role, receipt.pool)
        page[key] = _sum(page[key], receipt) if key in page else receipt


def _receipt(role: str, pool: str, card: EngineCard, output: Output) -> Receipt:
    usage = output.usage
    return Receipt(
        role=role,
        pool=pool,
        model=card.model,
        revision=card.revision,
        engine=card.engine,
        engine_version=card.engine_version,
        dtype=card.dtype,
        template_hash=card.template_hash,
        bos_count=usage.bos_count,
        tokens_total=usage.tokens_total,
        tokens_computed=usage.tokens_computed,
        tokens_reused=usage.tokens_reused,
        truncated=usage.truncated,
        tokens_dropped=usage.tokens_dropped,
        queue_ms=usage.queue_ms,
        compute_ms=usage.compute_ms,
    )


def _sum(one: Receipt, other: Receipt) -> Receipt:
    """Tokens add up; times overlap inside a batch, so the longest stands."""
    return msgspec.structs.replace(
        one,
        bos_count=max(one.bos_count, other.bos_count),
        tokens_total=one.tokens_total + other.tokens_total,
        tokens_computed=one.tokens_computed + other.tokens_computed,
        tokens_reused=one.tokens_reused + other.tokens_reused,
        truncated=one.truncated or other.truncated,
        tokens_dropped=one.tokens_dropped + other.tokens_dropped,
        queue_ms=max(one.queue_ms, other.queue_ms),
        compute_ms=max(one.compute_ms, other.compute_ms),
    )
