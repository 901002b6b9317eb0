"""When to try again and after how long: a pure policy. No I/O, no clock, no global random."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from random import Random

from rewardd_client._errors import APIConnectionError, APIError, PayloadTooLarge

RETRIED_STATUSES = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `max_retries` further tries.

    Without Retry-After the n-th delay is drawn from the upper half of
    `min(max_delay_s, first_delay_s * 2**n)`; half is kept so that no retry comes at once, half is
    random so that the ranks of a trainer do not come back together.
    """

    max_retries: int = 4
    first_delay_s: float = 0.5
    max_delay_s: float = 8.0
    max_retry_after_s: float = 60.0

    def delay_s(
        self,
        failure: APIError | APIConnectionError,
        *,
        num_retries: int,
        retry_after_s: float | None,
        remaining_s: float,
        random: Random,
    ) -> float | None:
        """Seconds to wait before the next try, or None to give up.

        `num_retries` tries were already repeated; a delay that would use up `remaining_s` is never
        given, since what went wrong tells the caller more than a timeout would.
        """
        if num_retries >= self.max_retries or not is_retried(failure):
            return None
        delay = self._wanted_delay_s(num_retries, retry_after_s, random)
        return delay if delay < remaining_s else None

    def _wanted_delay_s(
        self, num_retries: int, retry_after_s: float | None, random: Random
    ) -> float:
        if retry_after_s is not None:
            return min(retry_after_s, self.max_retry_after_s)
        # The exponent is bounded because 2.0**1024 overflows.
        ceiling = min(self.max_delay_s, self.first_delay_s * 2.0 ** min(num_retries, 64))
        return ceiling * (1.0 - 0.5 * random.random())


def is_retried(failure: APIError | APIConnectionError) -> bool:
    """Whether the same request may succeed later. Rewards are pure, so repeating one is safe."""
    if isinstance(failure, PayloadTooLarge):
        return False
    if isinstance(failure, APIError) and failure.status in RETRIED_STATUSES:
        return True
    return failure.retryable


def retry_after_s(headers: Mapping[str, str], *, now_s: float) -> float | None:
    """Retry-After in seconds (at least 0), or None where it is absent or unreadable.

    A date is read against the answer's own Date header, because the clocks of two machines differ;
    `now_s` (seconds since the epoch) stands in where there is none.
    """
    wanted = headers.get("retry-after", "").strip()
    seconds = _number(wanted)
    if seconds is None and (until := _epoch_s(wanted)) is not None:
        sent = _epoch_s(headers.get("date", ""))
        seconds = max(0.0, until - (now_s if sent is None else sent))
    return seconds


def _number(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _epoch_s(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
