"""Both drivers against a real server that drops, delays and refuses."""

import asyncio
import gc
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from rewardd_client import (
    APIConnectionError,
    APITimeoutError,
    AsyncClient,
    Client,
    Group,
    PayloadTooLarge,
    Response,
    ServerError,
    Unavailable,
)
from rewardd_client._retry import RetryPolicy
from tests.clients.conftest import Subject
from tests.clients.server import ScriptedServer, cut, drop, error_body, hang, refuse, trickle

pytestmark = pytest.mark.anyio

GROUP = Group(prompt="p", responses=[Response(content="abc")])
SCORE = {"model": "m", "groups": [GROUP]}


@pytest.fixture(autouse=True)
def _quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(RetryPolicy, first_delay_s=0.01)
    monkeypatch.setattr("rewardd_client._config.RetryPolicy", quick)


async def value(subject: Subject, **options: object) -> float:
    (group,) = await subject.call("rewards.score", **SCORE, **options)
    return group.rewards[0].value


@pytest.mark.parametrize("failure", [drop, cut], ids=["drop", "cut"])
async def test_a_lost_connection_is_tried_again(
    subject: Subject, server: ScriptedServer, failure: object
) -> None:
    server.script = [failure, failure]
    subject.connect(server.url)
    assert await value(subject) == 3.0
    assert len({seen.headers["x-request-id"] for seen in server.seen}) == 1
    assert len(server.seen) == 3


async def test_a_connection_that_is_always_lost_raises(
    subject: Subject, server: ScriptedServer
) -> None:
    server.script = [drop] * 3
    subject.connect(server.url, max_retries=2)
    with pytest.raises(APIConnectionError, match="disconnected") as raised:
        await value(subject)
    assert raised.value.__cause__ is not None
    assert server.script == []


async def test_nobody_listens(subject: Subject) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    subject.connect(f"http://127.0.0.1:{port}", max_retries=1)
    with pytest.raises(APIConnectionError, match="ConnectError"):
        await value(subject)


async def test_retry_after_is_waited_for(subject: Subject, server: ScriptedServer) -> None:
    server.script = [refuse(503, error_body("overloaded", retryable=True), retry_after="1")]
    subject.connect(server.url)
    assert await value(subject) == 3.0
    first, second = server.seen
    assert 1.0 <= second.at - first.at < 5.0


async def test_a_wait_beyond_the_deadline_is_not_begun(
    subject: Subject, server: ScriptedServer
) -> None:
    server.script = [refuse(503, retry_after="30")]
    subject.connect(server.url)
    start = time.monotonic()
    with pytest.raises(Unavailable):
        await value(subject, timeout_s=20.0)
    assert time.monotonic() - start < 10.0


@pytest.mark.parametrize("slowness", [hang, trickle], ids=["hang", "trickle"])
async def test_the_deadline_holds(
    subject: Subject, server: ScriptedServer, slowness: object
) -> None:
    server.script = [slowness]
    subject.connect(server.url)
    start = time.monotonic()
    with pytest.raises(APITimeoutError):
        await value(subject, timeout_s=0.4)
    assert 0.4 <= time.monotonic() - start < 5.0
    assert len(server.seen) == 1, "no time is left for another try"


async def test_the_deadline_spans_the_tries(subject: Subject, server: ScriptedServer) -> None:
    server.script = [refuse(503), refuse(503), hang]
    subject.connect(server.url)
    start = time.monotonic()
    with pytest.raises(APITimeoutError):
        await value(subject, timeout_s=1.0)
    assert time.monotonic() - start < 5.0
    told = [int(seen.headers["x-request-timeout-ms"]) for seen in server.seen]
    assert told == sorted(told, reverse=True)
    assert told[0] <= 1000


async def test_a_server_error_is_raised_at_once(subject: Subject, server: ScriptedServer) -> None:
    server.script = [refuse(500, error_body("method_failed"))]
    subject.connect(server.url)
    with pytest.raises(ServerError) as raised:
        await value(subject)
    assert raised.value.code == "method_failed"
    assert len(server.seen) == 1


async def test_large_requests_go_in_parts(subject: Subject, server: ScriptedServer) -> None:
    server.max_body_bytes = 100_000
    subject.connect(server.url)
    lengths = [[40_000 + n + 10 * m for n in range(5)] for m in range(3)]
    groups = [
        Group(id=f"g{m}", prompt="p", responses=[Response(content="x" * n) for n in row])
        for m, row in enumerate(lengths)
    ]
    answer = await subject.call("rewards.score", model="m", groups=groups)
    assert [[reward.value for reward in group.rewards] for group in answer] == lengths
    assert [group.id for group in answer] == ["g0", "g1", "g2"]

    with pytest.raises(PayloadTooLarge):
        await subject.call("rewards.compare", model="m", groups=groups)


async def test_connections_are_kept(subject: Subject, server: ScriptedServer) -> None:
    """A score after a failure reuses the pool: nothing is left half read."""
    subject.connect(server.url)
    for _ in range(3):
        server.script = [refuse(503), refuse(422, error_body("invalid_request"))]
        with pytest.raises(Exception, match="invalid_request"):
            await value(subject)
        assert await value(subject) == 3.0


async def test_many_at_once_keep_their_answers(server: ScriptedServer) -> None:
    async with AsyncClient(server.url) as client:
        groups = await asyncio.gather(
            *(client.score(model="m", prompt="p", responses=["x" * n]) for n in range(100))
        )
    assert [group.rewards[0].value for group in groups] == [float(n) for n in range(100)]


def test_threads_may_share_a_client(server: ScriptedServer) -> None:
    def score(n: int) -> float | None:
        return client.score(model="m", prompt="p", responses=["x" * n]).rewards[0].value

    with Client(server.url) as client, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(score, range(50))) == [float(n) for n in range(50)]


async def test_a_cancelled_call_leaves_the_server(server: ScriptedServer) -> None:
    server.script = [hang]
    async with AsyncClient(server.url) as client:
        call = asyncio.create_task(client.score(model="m", prompt="p", responses=["a"]))
        while not server.seen:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        for _ in range(100):
            if server.cancelled:
                break
            await asyncio.sleep(0.01)
        assert server.cancelled == 1
        assert (await client.score(model="m", prompt="p", responses=["a"])).status == "ok"


def test_one_async_client_lives_through_many_loops(server: ScriptedServer) -> None:
    """Trainers call `asyncio.run` once a step, with one client made at start."""
    client = AsyncClient(server.url)

    async def step(n: int) -> float | None:
        group = await client.score(model="m", prompt="p", responses=["x" * n])
        await client.aclose()
        return group.rewards[0].value

    assert [asyncio.run(step(n)) for n in range(3)] == [0.0, 1.0, 2.0]


def test_one_async_client_serves_loops_of_several_threads(server: ScriptedServer) -> None:
    client = AsyncClient(server.url)
    together = threading.Barrier(4)

    async def step(n: int) -> float | None:
        together.wait()
        group = await client.score(model="m", prompt="p", responses=["x" * n])
        await client.aclose()
        return group.rewards[0].value

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: asyncio.run(step(n)), range(4)))
    assert found == [0.0, 1.0, 2.0, 3.0]


def test_loops_that_ended_are_forgotten(server: ScriptedServer) -> None:
    """Also when the caller never closed: no connection of a dead loop is used or kept."""
    with warnings.catch_warnings():
        # Only the loop could have closed its sockets properly; Python says so as it drops them.
        warnings.simplefilter("ignore", ResourceWarning)
        client = AsyncClient(server.url)
        for n in range(5):
            group = asyncio.run(client.score(model="m", prompt="p", responses=["x" * n]))
            assert group.rewards[0].value == n
        assert len(client._by_loop) == 1
        del client
        gc.collect()
