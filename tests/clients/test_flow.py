"""A request's way: one id over the tries, the time that is left, never past the deadline."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardd_client import (
    APIConnectionError,
    APITimeoutError,
    Group,
    GroupReward,
    MalformedAnswer,
    PermissionDenied,
    RateLimited,
    Response,
    Unavailable,
)
from rewardd_client._catalogue import health, list_models, wait_ready
from rewardd_client._flow import Answer, Flow
from rewardd_client._retry import RetryPolicy
from rewardd_client._rewards import ask
from tests.clients.server import error_body
from tests.clients.simulation import Reply, Simulation, rightly, scripted

GROUPS = [Group(prompt="p", responses=[Response(content="abc")])]
BUSY = Answer(503, {}, error_body("overloaded", retryable=True))
READY = Answer(200, {}, b'{"status": "ok", "pools": {}}')


def busy(retry_after: str) -> Answer:
    return Answer(503, {"retry-after": retry_after}, b"")


def score(simulation: Simulation, **endpoint: object) -> Flow[list[GroupReward]]:
    return ask(simulation.endpoint(**endpoint), "score", "m", GROUPS, {})


def after(*failures: Reply) -> Simulation:
    """A server that fails so, then answers."""
    waiting = list(failures)
    return Simulation(lambda send: waiting.pop(0) if waiting else rightly(send))


def test_every_try_carries_one_id_and_the_time_that_is_left() -> None:
    simulation = after(busy("3"), APIConnectionError("refused"))
    simulation.try_s = 10.0
    simulation.run(score(simulation, timeout_s=100.0))

    ids = {send.headers["X-Request-Id"] for send in simulation.sent}
    left = [int(send.headers["X-Request-Timeout-Ms"]) for send in simulation.sent]
    assert len(ids) == 1
    assert left[:2] == [99_900, 86_900]
    assert left[2] == pytest.approx(76_900 - simulation.slept[1] * 1000, abs=1)


@pytest.mark.parametrize(("timeout_s", "told_ms"), [(5.0, 4900), (0.1, 50), (0.001, 1)])
def test_the_server_ends_a_moment_before_us(timeout_s: float, told_ms: int) -> None:
    """Else our own timeout beats the server's 504, and what it had scored by then is lost."""
    simulation = after()
    simulation.run(score(simulation, timeout_s=timeout_s))
    (send,) = simulation.sent
    assert send.timeout_s == pytest.approx(timeout_s)
    assert int(send.headers["X-Request-Timeout-Ms"]) == pytest.approx(told_ms, abs=1)


def test_two_calls_have_two_ids() -> None:
    simulation = after()
    simulation.run(score(simulation))
    simulation.run(score(simulation))
    assert len({send.headers["X-Request-Id"] for send in simulation.sent}) == 2


def test_retry_after_is_obeyed_and_capped() -> None:
    simulation = after(busy("7"), busy("3600"))
    simulation.run(score(simulation))
    assert simulation.slept == [7.0, 60.0]


def test_the_last_failure_is_raised_when_retries_are_used_up() -> None:
    simulation = Simulation(lambda send: BUSY)
    with pytest.raises(Unavailable):
        simulation.run(score(simulation, policy=RetryPolicy(max_retries=2)))
    assert len(simulation.sent) == 3


def test_what_cannot_help_is_not_tried_again() -> None:
    simulation = Simulation(scripted(Answer(403, {}, error_body("no"))))
    with pytest.raises(PermissionDenied):
        simulation.run(score(simulation))
    assert simulation.slept == []


def test_a_wait_beyond_the_deadline_raises_what_went_wrong() -> None:
    """Not a timeout, and not after a useless sleep."""
    simulation = Simulation(scripted(Answer(429, {"retry-after": "30"}, error_body("quota"))))
    with pytest.raises(RateLimited):
        simulation.run(score(simulation, timeout_s=20.0))
    assert simulation.slept == []


@given(
    timeout_s=st.floats(0.01, 1e5),
    try_s=st.floats(0.0, 50.0),
    retry_after=st.none() | st.integers(0, 200),
    seed=st.integers(),
)
def test_no_try_starts_after_the_deadline(
    timeout_s: float, try_s: float, retry_after: int | None, seed: int
) -> None:
    reply = BUSY if retry_after is None else busy(str(retry_after))
    simulation = Simulation(lambda send: reply, try_s=try_s)
    start = simulation.now
    endpoint = simulation.endpoint(
        timeout_s=timeout_s, random=Random(seed), policy=RetryPolicy(max_retries=50)
    )
    with pytest.raises(Unavailable):
        simulation.run(ask(endpoint, "score", "m", GROUPS, {}))

    elapsed = simulation.now - start
    assert elapsed <= timeout_s + try_s + 1e-6, "only the last try may run into the deadline"
    assert all(0 < send.timeout_s <= timeout_s + 1e-6 for send in simulation.sent)


def test_a_call_may_have_a_deadline_of_its_own() -> None:
    simulation = after()
    simulation.run(ask(simulation.endpoint(), "score", "m", GROUPS, {"timeout_s": 5.0}))
    assert simulation.sent[0].timeout_s == 5.0


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_that_is_none_is_refused(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        after().endpoint(timeout_s=timeout_s)


def test_an_address_without_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="http://"):
        after().endpoint(url="127.0.0.1:8600")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"object": "list"}', b'{"a": "\xff"}'])
def test_an_answer_of_another_shape_is_refused(body: bytes) -> None:
    simulation = Simulation(scripted(Answer(200, {}, body)))
    with pytest.raises(MalformedAnswer):
        simulation.run(list_models(simulation.endpoint()))


# Health


def test_health_tells_what_is_waited_for_without_retrying() -> None:
    body = b'{"status": "loading", "pools": {"demo": "warming up"}}'
    simulation = Simulation(scripted(Answer(503, {}, body)))
    assert simulation.run(health(simulation.endpoint())).pools == {"demo": "warming up"}
    assert simulation.slept == []


def test_health_raises_what_is_no_health() -> None:
    simulation = Simulation(scripted(BUSY, APIConnectionError("refused"), Answer(200, {}, b"{}")))
    for expected in (Unavailable, APIConnectionError, MalformedAnswer):
        with pytest.raises(expected):
            simulation.run(health(simulation.endpoint()))


def test_waiting_outlasts_a_server_that_starts() -> None:
    loading = Answer(503, {}, b'{"status": "loading", "pools": {"demo": "warming up"}}')
    refused = APIConnectionError("refused")
    simulation = Simulation(scripted(refused, refused, BUSY, loading, READY))
    assert simulation.run(wait_ready(simulation.endpoint(), 240.0)).status == "ok"
    assert simulation.slept == [1.0] * 4


def test_waiting_ends_and_says_what_was_missing() -> None:
    loading = Answer(503, {}, b'{"status": "loading", "pools": {"demo": "warming up"}}')
    simulation = Simulation(lambda send: loading, try_s=0.3)
    start = simulation.now
    with pytest.raises(APITimeoutError, match="demo: warming up"):
        simulation.run(wait_ready(simulation.endpoint(), 10.0))
    assert simulation.now - start <= 10.0


def test_waiting_does_not_outlast_a_wrong_address() -> None:
    simulation = Simulation(scripted(Answer(403, {}, error_body("no"))))
    with pytest.raises(PermissionDenied):
        simulation.run(wait_ready(simulation.endpoint(), 240.0))
