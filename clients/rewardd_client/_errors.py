"""Every error of the client. One class a status, so that callers catch what they can act on.

RewarddError
├── APIError                      the server answered with an error: status, code, message,
│   │                             retryable, path, request_id
│   ├── BadRequest           400  not JSON, not UTF-8, nested too deep
│   ├── AuthenticationError  401  no key, or a wrong one
│   ├── PermissionDenied     403
│   ├── NotFound             404  no such model or route
│   ├── PayloadTooLarge      413  and what was sent cannot be split further
│   ├── InvalidRequest       422  a field is wrong (`path` says which), or the model cannot do this
│   ├── RateLimited          429  this key's quota
│   └── ServerError          500  and every other 5xx
│       ├── Unavailable      503  overloaded, or not ready
│       └── DeadlineExceeded 504  the server gave up at the deadline it was told
├── APIConnectionError            no answer: refused, dropped, broken
│   └── APITimeoutError           no answer within `timeout_s`
├── MalformedAnswer               an answer that does not fit what was asked
└── RewardError                   a reward without a value was read as a number (`values`)

All of them survive pickling: trainers raise them in worker processes.
"""

import copyreg
from collections.abc import Mapping
from typing import Any

import msgspec

from rewardd_types import ErrorBody, ErrorInfo, Reward


class RewarddError(Exception):
    """Base of everything this package raises on its own account."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt by calling the class with `args`, which fails for keyword-only
        # arguments, in the parent process, and hangs some process pools. So: skip __init__.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class APIError(RewarddError):
    """The server refused or failed. `code` is stable and machine-readable; `path` names the field.

    `path` is written against the request the caller made, also when it was sent in several parts.
    """

    def __init__(self, info: ErrorInfo, *, status: int, request_id: str) -> None:
        super().__init__(info.message)
        self.status = status
        self.code = info.code
        self.message = info.message
        self.retryable = info.retryable
        self.path = info.path
        self.request_id = request_id

    def __str__(self) -> str:
        where = f" at {self.path}" if self.path else ""
        return f"{self.message} [{self.status} {self.code}{where}, request {self.request_id}]"


class BadRequest(APIError):
    pass


class AuthenticationError(APIError):
    pass


class PermissionDenied(APIError):
    pass


class NotFound(APIError):
    pass


class PayloadTooLarge(APIError):
    pass


class InvalidRequest(APIError):
    pass


class RateLimited(APIError):
    pass


class ServerError(APIError):
    pass


class Unavailable(ServerError):
    pass


class DeadlineExceeded(ServerError):
    pass


class APIConnectionError(RewarddError):
    """No answer came. `retryable` is false where trying again cannot help."""

    retryable: bool = True


class APITimeoutError(APIConnectionError):
    """The time for the whole call, `timeout_s`, is used up."""

    retryable = False


class MalformedAnswer(RewarddError):
    """An answer that is no JSON of the promised shape, or holds not one reward a response."""


class RewardError(RewarddError):
    """The reward of response `index` has no value; `reward` says why."""

    def __init__(self, index: int, reward: Reward) -> None:
        why = f"{reward.error.message} [{reward.error.code}]" if reward.error else "no reason given"
        super().__init__(f"response {index} has no reward ({reward.status}): {why}")
        self.index = index
        self.reward = reward


_BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequest,
    401: AuthenticationError,
    403: PermissionDenied,
    404: NotFound,
    413: PayloadTooLarge,
    422: InvalidRequest,
    429: RateLimited,
    503: Unavailable,
    504: DeadlineExceeded,
}


def error_from(
    status: int, headers: Mapping[str, str], body: bytes, *, request_id: str
) -> APIError:
    """The exception a refusing answer stands for; the server's request id wins over ours."""
    cls = _BY_STATUS.get(status) or (ServerError if status >= 500 else APIError)
    return cls(
        _info(status, body), status=status, request_id=headers.get("x-request-id", request_id)
    )


def _info(status: int, body: bytes) -> ErrorInfo:
    """The error body; what a proxy says in its own words gets the code `http_STATUS`."""
    try:
        return msgspec.json.decode(body, type=ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        words = body[:200].decode(errors="replace").strip() or "no message"
        return ErrorInfo(code=f"http_{status}", message=words, retryable=False)
