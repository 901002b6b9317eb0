"""The nouns of the client. The async twins promise what the sync ones say, awaited."""

from collections.abc import Sequence
from typing import Protocol, TypeVar, Unpack

from rewardd_client._catalogue import list_methods, list_models
from rewardd_client._encode import CallOptions
from rewardd_client._flow import Endpoint, Flow
from rewardd_client._rewards import ask
from rewardd_types import Group, GroupReward, MethodInfo, ModelInfo

T = TypeVar("T")


class Run(Protocol):
    def __call__(self, flow: Flow[T], /) -> T: ...


class RunAsync(Protocol):
    async def __call__(self, flow: Flow[T], /) -> T: ...


class Rewards:
    """Groups in, one GroupReward a group out, in order, each with one reward a response.

    A request that is too large goes out in several parts: by groups, and except for `compare` by
    the responses of one group. One failed response is an error of its reward, not of the call;
    `values` reads rewards as numbers. Raises APIError and APIConnectionError once retries and
    `timeout_s` are used up.
    """

    def __init__(self, endpoint: Endpoint, run: Run) -> None:
        self._endpoint = endpoint
        self._run = run

    def score(
        self, *, model: str, groups: Sequence[Group], **options: Unpack[CallOptions]
    ) -> list[GroupReward]:
        """A number for each response."""
        return self._run(ask(self._endpoint, "score", model, groups, options))

    def compare(
        self, *, model: str, groups: Sequence[Group], **options: Unpack[CallOptions]
    ) -> list[GroupReward]:
        """A preference matrix for each group: how likely row i is preferred to column j."""
        return self._run(ask(self._endpoint, "compare", model, groups, options))

    def steps(
        self, *, model: str, groups: Sequence[Group], **options: Unpack[CallOptions]
    ) -> list[GroupReward]:
        """A number for each reasoning step of each response."""
        return self._run(ask(self._endpoint, "steps", model, groups, options))

    def rubric(
        self, *, model: str, groups: Sequence[Group], **options: Unpack[CallOptions]
    ) -> list[GroupReward]:
        """A verdict for each criterion of a group's rubric on each response."""
        return self._run(ask(self._endpoint, "rubric", model, groups, options))


class AsyncRewards:
    """See `Rewards`."""

    def __init__(self, endpoint: Endpoint, run: RunAsync) -> None:
        self._endpoint = endpoint
        self._run = run

    async def score(
        self, *, model: str, groups: Sequence[Group], **options: Unpack[CallOptions]
    ) -> list[GroupReward]:
        return await self._run(ask(self._endpoint, "score", model, groups, options))

    async def compare(
        self, *, model: str, groups: Sequence[Group], **options: Unpack[CallOptions]
    ) -> list[GroupReward]:
        return await self._run(ask(self._endpoint, "compare", model, groups, options))

    async def steps(
        self, *, model: str, groups: Sequence[Group], **options: Unpack[CallOptions]
    ) -> list[GroupReward]:
        return await self._run(ask(self._endpoint, "steps", model, groups, options))

    async def rubric(
        self, *, model: str, groups: Sequence[Group], **options: Unpack[CallOptions]
    ) -> list[GroupReward]:
        return await self._run(ask(self._endpoint, "rubric", model, groups, options))


class Models:
    def __init__(self, endpoint: Endpoint, run: Run) -> None:
        self._endpoint = endpoint
        self._run = run

    def list(self) -> list[ModelInfo]:
        """The served rewards: what may be given as `model`."""
        return self._run(list_models(self._endpoint))


class AsyncModels:
    def __init__(self, endpoint: Endpoint, run: RunAsync) -> None:
        self._endpoint = endpoint
        self._run = run

    async def list(self) -> list[ModelInfo]:
        return await self._run(list_models(self._endpoint))


class Methods:
    def __init__(self, endpoint: Endpoint, run: Run) -> None:
        self._endpoint = endpoint
        self._run = run

    def list(self) -> list[MethodInfo]:
        """The registered reward methods with the JSON schemas of their parameters."""
        return self._run(list_methods(self._endpoint))


class AsyncMethods:
    def __init__(self, endpoint: Endpoint, run: RunAsync) -> None:
        self._endpoint = endpoint
        self._run = run

    async def list(self) -> list[MethodInfo]:
        return await self._run(list_methods(self._endpoint))
