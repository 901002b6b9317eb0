"""Callers who leave, over real sockets: their work is cancelled within a second."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rewardd.assembly import Service
from rewardd.config import Config
from rewardd.errors import StartRefused
from rewardd.gateway import server
from rewardd.gateway.server import Server, listen
from tests.gateway.engines import BlockedEngine, value_of
from tests.gateway.service import ask, make_service

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[int]:
    """A real uvicorn in this loop; gives its port."""
    listener = listen("127.0.0.1", 0)
    port: int = listener.getsockname()[1]
    ready = asyncio.Event()
    uvicorn = Server(service, ready.set)
    # The test's process keeps its own signal handlers: `_serve` is `serve` without them.
    serving = asyncio.create_task(uvicorn._serve([listener]))
    await ready.wait()
    try:
        yield port
    finally:
        uvicorn.should_exit = True
        await serving


def request(body: bytes, path: str = "/v1/rewards/score", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode() + body


async def send(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


def blocked_engine(service: Service) -> BlockedEngine:
    engine = service.pools["blocked"]
    assert isinstance(engine, BlockedEngine)
    return engine


async def test_a_caller_who_leaves_cancels_the_engines_work(anyio_backend: str) -> None:
    service = make_service()
    engine = blocked_engine(service)
    async with running(service) as port:
        _, writer = await send(port, request(json.dumps(ask("blocked", "4")).encode()))
        await asyncio.wait_for(engine.asked.wait(), 2)
        writer.close()
        await asyncio.wait_for(engine.cancelled.wait(), 1)


async def test_a_caller_who_stays_is_answered(anyio_backend: str) -> None:
    service = make_service()
    engine = blocked_engine(service)
    async with running(service) as port:
        reader, writer = await send(port, request(json.dumps(ask("blocked", "4")).encode()))
        await asyncio.wait_for(engine.asked.wait(), 2)
        engine.free.set()
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 2)
        assert b" 200 " in answer
        # The connection is still good: watching for the caller's leaving ate nothing of it.
        await reader.readuntil(b"}]}")
        writer.close()
    assert not engine.cancelled.is_set()


async def test_a_caller_who_leaves_while_sending_harms_nobody(anyio_backend: str) -> None:
    service = make_service()
    async with running(service) as port:
        _, writer = await send(port, request(b"{", length=10_000))
        writer.close()
        reader, writer = await send(port, request(json.dumps(ask("demo-outcome", "4")).encode()))
        assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 2)
        writer.close()


async def test_65_mb_are_refused_and_the_server_stays_up(anyio_backend: str) -> None:
    service = make_service()
    size = 65 * 1024 * 1024
    async with running(service) as port:
        reader, announced = await send(port, request(b"", length=size))
        assert b" 413 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 2)
        announced.close()
        reader, counted = await send(port, _chunked(size))
        assert b" 413 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
        counted.close()
        good = json.dumps(ask("demo-outcome", "4")).encode()
        reader, writer = await send(port, request(good))
        answer = await asyncio.wait_for(reader.readuntil(b"}]}"), 5)
        assert str(value_of("4")).encode() in answer
        writer.close()


def _chunked(size: int) -> bytes:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    head = b"POST /v1/rewards/score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + chunk * (size // 0x100000) + b"0\r\n\r\n"


async def test_a_body_that_drips_is_given_up(anyio_backend: str) -> None:
    service = make_service(server={"request_timeout_s": 0.2})
    async with running(service) as port:
        reader, writer = await send(port, request(b"{", length=10_000))
        assert b" 504 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 2)
        writer.close()


def test_a_taken_port_is_refused_with_the_fix(anyio_backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartRefused, match="--port"):
            listen("127.0.0.1", port)


def test_a_port_that_is_taken_while_models_load_is_refused() -> None:
    """Both have bound it, which the system allows, until one of them listens."""
    with listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]

        async def open_(config: Config) -> Service:
            other.listen()
            return make_service()

        with pytest.raises(StartRefused, match="--port"):
            server.serve(Config(server={"port": port}), lambda *_: pytest.fail("it serves"), open_)


def test_no_middleware_hides_disconnects() -> None:
    """One BaseHTTPMiddleware, and `http.disconnect` is never seen again."""
    root = Path(server.__file__).parent
    for file in root.rglob("*.py"):
        assert not re.search(r"BaseHTTPMiddleware|\.middleware\(", file.read_text()), file
