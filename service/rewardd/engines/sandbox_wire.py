"""What server and sandbox child say to each other: length-prefixed msgpack, never pickle.

msgpack and not JSON, because msgspec's JSON writes NaN as null, and a user's NaN must be seen.
"""

import struct
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from rewardd_types import ErrorInfo

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 64 * 1024 * 1024


class Describe(Struct, frozen=True, tag="describe"):
    """Ask what the child holds; answered when the user's file has been imported."""


class Load(Struct, frozen=True, tag="load"):
    """Import what `function` needs, so that its first call is not charged for it."""

    function: str


class Invoke(Struct, frozen=True, tag="invoke"):
    """Run a function. `timeout_s` only sets the child's CPU limit; the server holds the clock."""

    function: str
    arguments: dict[str, Any]
    timeout_s: float


class Returned(Struct, frozen=True, tag="returned"):
    result: Any


class Raised(Struct, frozen=True, tag="raised"):
    error: ErrorInfo


Request: TypeAlias = Describe | Load | Invoke
Reply: TypeAlias = Returned | Raised


class UserFunction(Struct, frozen=True):
    """A reward of the user's file, as the child describes it.

    `params` are the fields of a `@reward_method`'s parameters: name, then default or null when
    there is none. A plain function has no roles and no parameters.
    """

    name: str
    plain: bool
    summary: str
    roles: list[str] = []
    reads: list[str] = []
    gives: tuple[str, ...] = ("value",)
    metrics: list[str] = []
    paper: str | None = None
    params: dict[str, Any] = {}
    required: list[str] = []


def frame(message: Request | Reply) -> bytes:
    """The bytes of one message; TypeError, OverflowError or ValueError when it has none."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is too large for the sandbox")
    return HEADER.pack(len(body)) + body
