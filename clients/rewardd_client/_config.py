"""From the keywords of a client to its endpoint: the only reader of the environment."""

import os
from random import Random

from rewardd_client._flow import Endpoint
from rewardd_client._retry import RetryPolicy
from rewardd_client._version import __version__

DEFAULT_URL = "http://127.0.0.1:8600"
DEFAULT_TIMEOUT_S = 600.0
DEFAULT_MAX_RETRIES = 4


def endpoint_of(
    url: str | None, api_key: str | None, timeout_s: float, max_retries: int, seed: int | None
) -> Endpoint:
    """Raises ValueError where a keyword, or the environment in its stead, cannot be meant."""
    if max_retries < 0:
        raise ValueError(f"`max_retries` is 0 or more, not {max_retries}")
    return Endpoint(
        url=(url or os.environ.get("REWARDD_URL") or DEFAULT_URL).rstrip("/"),
        headers=_headers(api_key or os.environ.get("REWARDD_API_KEY")),
        timeout_s=timeout_s,
        policy=RetryPolicy(max_retries=max_retries),
        random=Random(seed),
    )


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": f"rewardd-client/{__version__}",
    }
    return headers if api_key is None else {**headers, "Authorization": f"Bearer {api_key}"}
