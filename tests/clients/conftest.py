"""Both clients behind one face, so that each promise is tested once and holds twice."""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from operator import attrgetter
from typing import Any

import anyio.to_thread
import httpx
import pytest

from rewardd_client import AsyncClient, Client
from tests.clients.server import ScriptedServer, ServerThread

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, address or proxy of the machine reaches a test."""
    for name in ("REWARDD_URL", "REWARDD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ServerThread(ScriptedServer()) as app:
        yield app


class Subject:
    """A client of either kind; `call("rewards.score", ...)` awaits the one, threads the other."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._open: list[Any] = []

    def connect(self, url: str | None = "http://test", **options: Any) -> "Subject":
        self.client = (Client if self.kind == "sync" else AsyncClient)(url, **options)
        self._open.append(self.client)
        return self

    def mock(self, handler: Handler, url: str | None = "http://test", **options: Any) -> "Subject":
        """A client whose network is `handler`."""
        http_cls = httpx.Client if self.kind == "sync" else httpx.AsyncClient
        http = http_cls(transport=httpx.MockTransport(handler))
        self._open.append(http)
        return self.connect(url, http_client=http, **options)

    async def call(self, verb: str, /, **arguments: Any) -> Any:
        bound = partial(attrgetter(verb)(self.client), **arguments)
        if self.kind == "sync":
            return await anyio.to_thread.run_sync(bound)
        return await bound()

    async def aclose(self) -> None:
        for closable in reversed(self._open):
            if self.kind == "sync":
                closable.close()
            else:
                await closable.aclose()


@pytest.fixture(params=["sync", "async"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    subject = Subject(request.param)
    yield subject
    await subject.aclose()
