"""The retry policy as a pure function: when, how often, how long."""

from email.utils import formatdate
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardd_client import APIConnectionError, APIError, APITimeoutError
from rewardd_client._errors import error_from
from rewardd_client._retry import RetryPolicy, is_retried, retry_after_s
from tests.clients.server import error_body

seconds = st.floats(0, 1e6)


def failure(status: int, *, retryable: bool = False) -> APIError:
    return error_from(status, {}, error_body("c", retryable=retryable), request_id="abc")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_these_statuses_are_retried(status: int) -> None:
    assert is_retried(failure(status))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 422, 500, 501])
def test_others_only_when_the_body_says_so(status: int) -> None:
    assert not is_retried(failure(status))
    assert is_retried(failure(status, retryable=True))


def test_a_large_body_stays_large() -> None:
    assert not is_retried(failure(413, retryable=True))


def test_connections_are_retried_and_used_up_time_is_not() -> None:
    assert is_retried(APIConnectionError("refused"))
    assert not is_retried(APITimeoutError("late"))


@given(
    num_retries=st.integers(0, 10_000),
    retry_after=st.none() | seconds,
    remaining=st.floats(-10, 1e6),
    max_retries=st.integers(0, 10_000),
    seed=st.integers(),
)
def test_a_delay_stays_within_every_bound(
    num_retries: int, retry_after: float | None, remaining: float, max_retries: int, seed: int
) -> None:
    policy = RetryPolicy(max_retries=max_retries)
    delay = policy.delay_s(
        failure(503),
        num_retries=num_retries,
        retry_after_s=retry_after,
        remaining_s=remaining,
        random=Random(seed),
    )
    if delay is None:
        ceiling = policy.max_delay_s if retry_after is None else retry_after
        assert num_retries >= max_retries or remaining <= ceiling
        return
    assert num_retries < max_retries
    assert 0 <= delay < remaining
    if retry_after is None:
        ceiling = min(policy.max_delay_s, policy.first_delay_s * 2.0 ** min(num_retries, 60))
        assert ceiling / 2 <= delay <= ceiling
    else:
        assert delay == min(retry_after, policy.max_retry_after_s)


def schedule(seed: int) -> list[float | None]:
    random = Random(seed)
    return [
        RetryPolicy().delay_s(
            APIConnectionError("refused"),
            num_retries=n,
            retry_after_s=None,
            remaining_s=100.0,
            random=random,
        )
        for n in range(5)
    ]


@given(seed=st.integers())
def test_a_seed_fixes_the_schedule(seed: int) -> None:
    assert schedule(seed) == schedule(seed)
    assert schedule(seed)[4] is None, "four retries, then the failure"


def test_ranks_do_not_come_back_together() -> None:
    assert len({schedule(seed)[0] for seed in range(64)}) == 64


@given(wait=st.integers(0, 10**6), now=st.integers(0, 10**9), skew=st.integers(-(10**6), 10**6))
def test_a_date_is_read_by_the_clock_of_the_server(wait: int, now: int, skew: int) -> None:
    server_now = 10**6 + now + skew
    headers = {
        "retry-after": formatdate(server_now + wait, usegmt=True),
        "date": formatdate(server_now, usegmt=True),
    }
    assert retry_after_s(headers, now_s=now) == wait


def test_a_date_without_a_date_header_is_read_by_ours() -> None:
    headers = {"retry-after": formatdate(1_000_030, usegmt=True)}
    assert retry_after_s(headers, now_s=1_000_000.0) == 30.0
    assert retry_after_s(headers, now_s=2_000_000.0) == 0.0, "the past means now"


@pytest.mark.parametrize(
    ("written", "read"),
    [("0", 0.0), ("7", 7.0), (" 1.5 ", 1.5), ("-3", None), ("inf", None), ("nan", None)],
)
def test_seconds(written: str, read: float | None) -> None:
    assert retry_after_s({"retry-after": written}, now_s=0.0) == read


@given(st.text())
def test_nonsense_is_no_advice(written: str) -> None:
    wait = retry_after_s({"retry-after": written, "date": written}, now_s=0.0)
    assert wait is None or wait >= 0


def test_no_header_is_no_advice() -> None:
    assert retry_after_s({}, now_s=0.0) is None
