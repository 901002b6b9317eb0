"""The way of one request, without I/O.

A flow is a generator that yields effects (`Send`, `Sleep`) and is sent what came of them; it is
written once and driven by `_drive.py` twice, with and without await. Failures to reach the server
come back as values, so a driver decides nothing.
"""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias, TypeVar

import msgspec

from rewardd_client._errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    MalformedAnswer,
    error_from,
)
from rewardd_client._retry import RetryPolicy, retry_after_s

T = TypeVar("T")

MAX_TIMEOUT_S = 7 * 24 * 3600.0

# The server is to end this much before we do, so that what it has by then (or its 504) reaches us.
ANSWER_S = 0.1


@dataclass(frozen=True, slots=True)
class Send:
    """Send this and wait at most `timeout_s` for the whole answer."""

    verb: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said. The keys of `headers` are found in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Effect: TypeAlias = Send | Sleep
Reply: TypeAlias = Answer | APIConnectionError | None
"""What a driver sends back: for `Send` an answer or the failure, for `Sleep` None."""
Flow: TypeAlias = Generator[Effect, Reply, T]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server is and how hard to try.

    `timeout_s` bounds a whole call, retries and splits included. `monotonic` measures it; `wall`
    (seconds since the epoch) reads Retry-After dates.
    """

    url: str
    headers: dict[str, str]
    timeout_s: float
    policy: RetryPolicy
    random: Random
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"the URL must start with http:// or https://: {self.url!r}")
        self.deadline()

    def deadline(self, timeout_s: float | None = None) -> float:
        """The moment a call that starts now must end; None stands for the client's timeout."""
        seconds = self.timeout_s if timeout_s is None else timeout_s
        if not 0 < seconds <= MAX_TIMEOUT_S:
            raise ValueError(f"`timeout_s` is above 0 and at most {MAX_TIMEOUT_S}, not {seconds}")
        return self.monotonic() + seconds


@dataclass(frozen=True, slots=True)
class Request:
    """One body on its way. `deadline` is a moment of the endpoint's monotonic clock."""

    verb: str
    path: str
    deadline: float
    request_id: str
    body: bytes | None = field(default=None, repr=False)


def exchange(endpoint: Endpoint, request: Request) -> Flow[Answer]:
    """Send until answered well, within the deadline and the retry policy; else raise the failure.

    Every try carries the same request id and the time the server has left.
    """
    num_retries = 0
    while True:
        reply = yield from try_once(endpoint, request)
        if isinstance(reply, Answer) and reply.status < 300:
            return reply
        failure = failure_of(reply, request)
        delay_s = endpoint.policy.delay_s(
            failure,
            num_retries=num_retries,
            retry_after_s=_retry_after_s(reply, endpoint),
            remaining_s=request.deadline - endpoint.monotonic(),
            random=endpoint.random,
        )
        if delay_s is None:
            raise failure
        yield Sleep(delay_s)
        num_retries += 1


def try_once(endpoint: Endpoint, request: Request) -> Flow[Answer | APIConnectionError]:
    """Send one time, with the request id and the time the server has to answer."""
    remaining_s = request.deadline - endpoint.monotonic()
    if remaining_s <= 0:
        return APITimeoutError("the time for this call was used up before it was sent")
    told_s = remaining_s - min(ANSWER_S, remaining_s / 2)
    headers = {
        **endpoint.headers,
        "X-Request-Id": request.request_id,
        "X-Request-Timeout-Ms": str(max(1, int(told_s * 1000))),
    }
    url = endpoint.url + request.path
    reply = yield Send(request.verb, url, headers, request.body, remaining_s)
    assert reply is not None, "a driver answers every Send"
    return reply


def failure_of(
    reply: Answer | APIConnectionError, request: Request
) -> APIError | APIConnectionError:
    """The exception that a reply without a good answer stands for."""
    if isinstance(reply, APIConnectionError):
        return reply
    return error_from(reply.status, reply.headers, reply.body, request_id=request.request_id)


def _retry_after_s(reply: Answer | APIConnectionError, endpoint: Endpoint) -> float | None:
    if isinstance(reply, APIConnectionError):
        return None
    return retry_after_s(reply.headers, now_s=endpoint.wall())


def decode(body: bytes, type_: type[T]) -> T:
    """`body` as `type_`; fields we do not know are ignored, so an old client reads a new server."""
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedAnswer(f"the answer is not a {type_.__name__}: {error}") from error
