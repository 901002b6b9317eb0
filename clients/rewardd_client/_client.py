"""The client for code that waits in its own thread."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from rewardd_client._catalogue import health, wait_ready
from rewardd_client._config import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S, endpoint_of
from rewardd_client._drive import LIMITS, drive
from rewardd_client._encode import GroupOptions, Prompt
from rewardd_client._flow import Flow
from rewardd_client._resources import Methods, Models, Rewards
from rewardd_client._rewards import ask_one
from rewardd_types import GroupReward, Health, Response

T = TypeVar("T")


class Client:
    """Asks a rewardd server for rewards. Safe to share between threads.

        with Client("http://127.0.0.1:8600") as client:
            group = client.score(model="demo-outcome", prompt="7 + 5 =", responses=["12", "13"])
            print(values(group))

    `score`, `compare`, `steps` and `rubric` take one group; `client.rewards` has the same verbs
    for a list of groups.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        seed: int | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        """`url` and `api_key` default to REWARDD_URL and REWARDD_API_KEY.

        `timeout_s` bounds each call as a whole, retries included; `seed` fixes the jitter of the
        retries. Give an `http_client` for proxies, certificates or limits of your own; it stays
        yours to close.
        """
        self._endpoint = endpoint_of(url, api_key, timeout_s, max_retries, seed)
        self._owns_http = http_client is None
        self._http = httpx.Client(limits=LIMITS) if http_client is None else http_client
        self.rewards = Rewards(self._endpoint, self._run)
        self.models = Models(self._endpoint, self._run)
        self.methods = Methods(self._endpoint, self._run)

    def score(
        self,
        *,
        model: str,
        prompt: Prompt,
        responses: Sequence[Response | str],
        **options: Unpack[GroupOptions],
    ) -> GroupReward:
        """A number for each response; `Rewards` says what all verbs promise."""
        return self._run(ask_one(self._endpoint, "score", model, prompt, responses, options))

    def compare(
        self,
        *,
        model: str,
        prompt: Prompt,
        responses: Sequence[Response | str],
        **options: Unpack[GroupOptions],
    ) -> GroupReward:
        """How likely each response is preferred to each other one, as `preference`."""
        return self._run(ask_one(self._endpoint, "compare", model, prompt, responses, options))

    def steps(
        self,
        *,
        model: str,
        prompt: Prompt,
        responses: Sequence[Response | str],
        **options: Unpack[GroupOptions],
    ) -> GroupReward:
        """A number for each reasoning step of each response."""
        return self._run(ask_one(self._endpoint, "steps", model, prompt, responses, options))

    def rubric(
        self,
        *,
        model: str,
        prompt: Prompt,
        responses: Sequence[Response | str],
        **options: Unpack[GroupOptions],
    ) -> GroupReward:
        """A verdict for each criterion of `rubric` (texts or Criterions) on each response."""
        return self._run(ask_one(self._endpoint, "rubric", model, prompt, responses, options))

    def health(self) -> Health:
        """Whether the server is ready, or which pools it waits for. One try."""
        return self._run(health(self._endpoint))

    def wait_ready(self, timeout_s: float = 240.0) -> Health:
        """Return when the server is ready; APITimeoutError says what was missing."""
        return self._run(wait_ready(self._endpoint, timeout_s))

    def close(self) -> None:
        """Close the connections, unless they belong to the given `http_client`."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        return drive(flow, self._http)
