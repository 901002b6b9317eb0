"""A reward server for the client's tests: right when left alone, misbehaving as scripted.

The reward of a response is the length of its content, so a test knows each value.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvicorn

from rewardd_types import (
    ErrorBody,
    ErrorInfo,
    Group,
    GroupReward,
    Receipt,
    Response,
    Reward,
    RewardRequest,
    RewardResponse,
)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Behaviour = Callable[[Send], Awaitable[None]]


def value_of(response: Response) -> float:
    return float(len(response.content or ""))


def receipt(num_tokens: int, **changes: Any) -> Receipt:
    fields: dict[str, Any] = {
        "role": "reward",
        "pool": "demo",
        "model": "tiny",
        "revision": "r1",
        "engine": "torch",
        "engine_version": "2",
        "dtype": "float32",
        "tokens_total": num_tokens,
        "tokens_computed": num_tokens,
        "queue_ms": 1.0,
        "compute_ms": 2.0,
    }
    return Receipt(**{**fields, **changes})


def reward_group(group: Group, door: str) -> GroupReward:
    values = [value_of(response) for response in group.responses]
    return GroupReward(
        rewards=[
            Reward(id=response.id, value=value)
            for response, value in zip(group.responses, values, strict=True)
        ],
        id=group.id,
        preference=[[float(a > b) for b in values] for a in values] if door == "compare" else None,
        receipts=[receipt(int(sum(values)))],
    )


def reward_answer(path: str, body: bytes) -> RewardResponse:
    request = msgspec.json.decode(body, type=RewardRequest)
    door = path.rsplit("/", 1)[-1]
    groups = [reward_group(group, door) for group in request.groups]
    return RewardResponse(model=request.model, method="length", groups=groups)


CATALOGUE: dict[str, Any] = {
    "/v1/models": {
        "object": "list",
        "data": [
            {
                "id": "demo-outcome",
                "method": "scalar",
                "family": "scalar",
                "gives": ["value"],
                "roles": {"reward": "demo"},
                "params": {},
                "pools": [],
            }
        ],
    },
    "/v1/methods": {
        "object": "list",
        "data": [
            {
                "name": "scalar",
                "family": "scalar",
                "summary": "A number.",
                "roles": ["reward"],
                "reads": [],
                "gives": ["value"],
                "paper": None,
                "revision": "1",
                "params_schema": {},
            }
        ],
    },
    "/readyz": {"status": "ok", "pools": {}},
}


def error_body(code: str, *, retryable: bool = False, path: str | None = None) -> bytes:
    info = ErrorInfo(code=code, message=f"it said {code}", retryable=retryable, path=path)
    return msgspec.json.encode(ErrorBody(info))


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class ScriptedServer:
    """An ASGI app. Each request takes the next behaviour of `script`, or is answered rightly."""

    script: list[Behaviour] = field(default_factory=list)
    max_body_bytes: int | None = None
    seen: list[Seen] = field(default_factory=list)
    cancelled: int = 0
    url: str = ""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = await _read(receive)
        self.seen.append(Seen(scope["path"], headers, body, time.monotonic()))
        if self.script:
            await self._misbehave(self.script.pop(0), receive, send)
        elif self.max_body_bytes is not None and len(body) > self.max_body_bytes:
            await answer(send, 413, error_body("body_too_large"))
        else:
            await answer(send, 200, _right_body(scope["path"], body))

    async def _misbehave(self, behaviour: Behaviour, receive: Any, send: Send) -> None:
        acting = asyncio.ensure_future(behaviour(send))
        leaving = asyncio.ensure_future(receive())
        done, _ = await asyncio.wait({acting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if acting not in done:
            self.cancelled += 1
        for task in (acting, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _right_body(path: str, body: bytes) -> bytes:
    return msgspec.json.encode(CATALOGUE.get(path) or reward_answer(path, body))


async def _read(receive: Any) -> bytes:
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            return body


async def answer(send: Send, status: int, body: bytes, **headers: str) -> None:
    named = {"content-length": str(len(body)), **headers}
    pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def refuse(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    async def behaviour(send: Send) -> None:
        await answer(send, status, body, **headers)

    return behaviour


async def drop(send: Any) -> None:
    """Close the connection without a byte, as a server that is killed does."""
    send.__self__.transport.abort()
    await asyncio.sleep(0.02)


async def cut(send: Send) -> None:
    """Promise more bytes than come, then close."""
    promised = [(b"content-length", b"1000"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": promised})
    await send({"type": "http.response.body", "body": b'{"model":', "more_body": True})
    await drop(send)


async def hang(send: Send) -> None:
    await asyncio.sleep(30)


async def trickle(send: Send) -> None:
    """Never silent for long, never done."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(300):
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await asyncio.sleep(0.05)


class ServerThread:
    """`app` on a free port of this machine."""

    def __init__(self, app: ScriptedServer) -> None:
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            http="h11",
            ws="none",
            lifespan="off",
            log_level="critical",
            timeout_graceful_shutdown=1,
        )
        self._app = app
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self._app.url = f"http://127.0.0.1:{port}"
        return self._app

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
