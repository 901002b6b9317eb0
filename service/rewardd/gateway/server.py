"""The gateway as a process: a port, uvicorn, and an orderly end."""

import asyncio
import math
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from rewardd.assembly import Service, open_service
from rewardd.config import Config
from rewardd.errors import StartRefused
from rewardd.gateway.app import create_app
from rewardd.gateway.auth import check_exposure

Announce = Callable[[Service, str], None]
Open = Callable[[Config], Awaitable[Service]]


class Server(uvicorn.Server):
    """uvicorn that says it is leaving before it leaves.

    On SIGTERM /readyz turns to 503 at once, the port stays open for `drain_notice_s` so that load
    balancers notice, then requests in flight have `drain_s` to finish. SIGINT skips the notice; a
    second one stops at once. Signals are not raised again: an orderly end exits with 0.
    """

    def __init__(self, service: Service, announce: Callable[[], None]) -> None:
        app = create_app(service)
        server = service.config.server
        self._gateway = app.state.gateway
        self._announce = announce
        self._notice_s = server.drain_notice_s
        self._closes_at = math.inf
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=math.ceil(server.drain_s),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGINT and self._gateway.draining:
            self.force_exit = self.should_exit = True
            return
        self._gateway.draining = True
        notice = self._notice_s if sig == signal.SIGTERM else 0.0
        self._closes_at = min(self._closes_at, time.monotonic() + notice)

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._closes_at:
            self.should_exit = True
        return bool(await super().on_tick(counter))


def serve(config: Config, announce: Announce, open_: Open = open_service) -> None:
    """Serve until a signal; `announce` is told the service and its URL once it answers.

    StartRefused, before any model is loaded, when the port cannot be had or would be open to all,
    or a tenant's key line is unreadable.
    """
    check_exposure(config)
    listener = listen(config.server.host, config.server.port)
    loop_factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with listener, asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(config, listener, announce, open_))


async def _serve(config: Config, listener: socket.socket, announce: Announce, open_: Open) -> None:
    service = await open_(config)
    try:
        with _refusal(config.server.host, config.server.port):
            # Two may have bound the port, and uvloop says nothing when the other one listens.
            listener.listen()
        url = _url(config.server.host, listener.getsockname()[1])
        await Server(service, lambda: announce(service, url)).serve([listener])
    finally:
        await service.aclose()


def listen(host: str, port: int) -> socket.socket:
    """Bind, and do not listen yet: a taken port is found before minutes of loading."""
    with _refusal(host, port):
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _bound(socket.socket(family, kind), address)


@contextmanager
def _refusal(host: str, port: int) -> Iterator[None]:
    """What the system does not let us have is a StartRefused."""
    try:
        yield
    except OSError as error:
        raise StartRefused(
            f"cannot listen on {host}:{port}: {error.strerror}; `--port` takes another port"
        ) from error


def _bound(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _url(host: str, port: int) -> str:
    """Where to reach the server from this machine."""
    near = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    if ":" in near and not near.startswith("["):
        near = f"[{near}]"
    return f"http://{near}:{port}"
