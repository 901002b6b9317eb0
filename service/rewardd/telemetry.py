"""Metrics and logs. Called from the shells only; neither holds a body, a prompt or a key.

Label values come from the configuration and from our own code (route templates, served models,
error codes), never from a caller, so that their number is bounded.
"""

import json
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from rewardd_types import GroupReward, Receipt, Reward

METRICS_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_WINDOW = 1_000
# A second series beside each counter, which nobody reads.
disable_created_metrics()  # type: ignore[no-untyped-call]
_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 150, 600)


class Share:
    """The share of hits among what was counted in the last thousand entries."""

    def __init__(self) -> None:
        self._entries: deque[tuple[int, int]] = deque(maxlen=_WINDOW)
        self._hits = self._total = 0

    def add(self, hits: int, total: int) -> float:
        """Enter `hits` of `total`; the share from then on."""
        if len(self._entries) == _WINDOW:
            old_hits, old_total = self._entries[0]
            self._hits, self._total = self._hits - old_hits, self._total - old_total
        self._entries.append((hits, total))
        self._hits, self._total = self._hits + hits, self._total + total
        return self._hits / self._total if self._total else 0.0


class Telemetry:
    """The metrics of one app, in a registry of its own: several may live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        self._requests = counter("rewardd_requests", "Requests answered", ["route", "status"])
        self._seconds = Histogram(
            "rewardd_request_seconds",
            "From the first byte of a request to the last of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = gauge("rewardd_requests_in_flight", "Requests now")
        self._rewards = counter("rewardd_rewards", "Rewards by status", ["model", "status"])
        self._errors = counter(
            "rewardd_reward_errors", "Rewards without a value", ["model", "code"]
        )
        self._groups = counter(
            "rewardd_groups",
            "Groups with two or more values; those of zero variance teach a trainer nothing",
            ["model", "zero_variance"],
        )
        self._tokens = counter("rewardd_tokens", "Tokens of scored inputs", ["pool", "kind"])
        self._error_ratio = gauge(
            "rewardd_error_ratio",
            "Share of errors among the rewards of the last 1,000 groups",
            ["model"],
        )
        self._zero_variance_ratio = gauge(
            "rewardd_zero_variance_ratio",
            "Share of zero variance among the last 1,000 groups with two or more values",
            ["model"],
        )
        self._shares: dict[tuple[str, str], Share] = {}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def rewarded(self, model: str, groups: Sequence[GroupReward]) -> None:
        """Count what was computed for one request."""
        for group in groups:
            self._count_rewards(model, group.rewards)
            for receipt in group.receipts:
                self._count_tokens(receipt)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _count_rewards(self, model: str, rewards: Sequence[Reward]) -> None:
        counts: dict[tuple[str, str], int] = {}
        for reward in rewards:
            key = (reward.status, reward.error.code if reward.error else "")
            counts[key] = counts.get(key, 0) + 1
        for (status, code), count in counts.items():
            self._rewards.labels(model, status).inc(count)
            if code:
                self._errors.labels(model, code).inc(count)
        errors = sum(count for (status, _), count in counts.items() if status == "error")
        ratio = self._share("errors", model).add(errors, len(rewards))
        self._error_ratio.labels(model).set(ratio)
        self._count_variance(model, [r.value for r in rewards if r.value is not None])

    def _count_variance(self, model: str, values: Sequence[float]) -> None:
        if len(values) < 2:
            return
        same = all(value == values[0] for value in values)
        self._groups.labels(model, "true" if same else "false").inc()
        ratio = self._share("zero_variance", model).add(int(same), 1)
        self._zero_variance_ratio.labels(model).set(ratio)

    def _count_tokens(self, receipt: Receipt) -> None:
        self._tokens.labels(receipt.pool, "computed").inc(receipt.tokens_computed)
        self._tokens.labels(receipt.pool, "reused").inc(receipt.tokens_reused)

    def _share(self, kind: str, model: str) -> Share:
        return self._shares.setdefault((kind, model), Share())


class JsonLines(logging.Formatter):
    """One JSON object a record: our own fields, and of an exception where, never what it says.

    An exception's text may quote a prompt; its type and the lines it passed cannot.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().partition("\n")[0][:500],
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["where"] = _places(record.exc_info[2])
        return json.dumps(line, separators=(",", ":"), default=str)


def _places(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)[-12:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def configure_logging(level: str) -> None:
    """Send every logger's records to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True
    for chatty in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
