"""The client for code that awaits."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from rewardd_client._catalogue import health, wait_ready
from rewardd_client._config import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S, endpoint_of
from rewardd_client._drive import LIMITS, drive_async
from rewardd_client._encode import GroupOptions, Prompt
from rewardd_client._flow import Flow
from rewardd_client._resources import AsyncMethods, AsyncModels, AsyncRewards
from rewardd_client._rewards import ask_one
from rewardd_types import GroupReward, Health, Response

T = TypeVar("T")


class AsyncClient:
    """`Client`, awaited, on asyncio.

        async with AsyncClient("http://127.0.0.1:8600") as client:
            group = await client.score(model="demo-outcome", prompt="7 + 5 =", responses=["12"])

    One may live through many event loops. Cancelling a call closes its connection, which tells the
    server to stop.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        seed: int | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        """The keywords of `Client`."""
        self._endpoint = endpoint_of(url, api_key, timeout_s, max_retries, seed)
        self._given = http_client
        self._by_loop: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self.rewards = AsyncRewards(self._endpoint, self._run)
        self.models = AsyncModels(self._endpoint, self._run)
        self.methods = AsyncMethods(self._endpoint, self._run)

    async def score(
        self,
        *,
        model: str,
        prompt: Prompt,
        responses: Sequence[Response | str],
        **options: Unpack[GroupOptions],
    ) -> GroupReward:
        return await self._run(ask_one(self._endpoint, "score", model, prompt, responses, options))

    async def compare(
        self,
        *,
        model: str,
        prompt: Prompt,
        responses: Sequence[Response | str],
        **options: Unpack[GroupOptions],
    ) -> GroupReward:
        return await self._run(
            ask_one(self._endpoint, "compare", model, prompt, responses, options)
        )

    async def steps(
        self,
        *,
        model: str,
        prompt: Prompt,
        responses: Sequence[Response | str],
        **options: Unpack[GroupOptions],
    ) -> GroupReward:
        return await self._run(ask_one(self._endpoint, "steps", model, prompt, responses, options))

    async def rubric(
        self,
        *,
        model: str,
        prompt: Prompt,
        responses: Sequence[Response | str],
        **options: Unpack[GroupOptions],
    ) -> GroupReward:
        return await self._run(ask_one(self._endpoint, "rubric", model, prompt, responses, options))

    async def health(self) -> Health:
        return await self._run(health(self._endpoint))

    async def wait_ready(self, timeout_s: float = 240.0) -> Health:
        return await self._run(wait_ready(self._endpoint, timeout_s))

    async def aclose(self) -> None:
        """Close the connections of the running loop, unless the `http_client` was given."""
        http = self._by_loop.pop(asyncio.get_running_loop(), None)
        if http is not None:
            await http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _run(self, flow: Flow[T]) -> T:
        return await drive_async(flow, self._http())

    def _http(self) -> httpx.AsyncClient:
        """Connections belong to the loop that opened them; trainers call `asyncio.run` often."""
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            self._forget_closed_loops()
            self._by_loop[loop] = httpx.AsyncClient(limits=LIMITS)
        return self._by_loop[loop]

    def _forget_closed_loops(self) -> None:
        # No weak keys: the connections refer to their loop, so an entry would keep itself alive.
        for loop in [loop for loop in self._by_loop if loop.is_closed()]:
            del self._by_loop[loop]
