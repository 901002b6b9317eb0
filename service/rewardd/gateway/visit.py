"""What is known of one request while it is served; the access line is written from it."""

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

_KEY = "rewardd.visit"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True)
class Visit:
    """One request. `tenant` is empty on an open server and until the key was checked."""

    request_id: str
    started: float = field(default_factory=time.monotonic)
    tenant: str = ""
    status: int = 0
    code: str = ""
    num_groups: int = 0
    num_responses: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def open_visit(scope: Scope) -> Visit:
    """Begin the visit of a request under the caller's X-Request-Id, or under a new one."""
    given = header(scope, b"x-request-id") or b""
    sane = _SANE_ID.fullmatch(given) is not None
    visit = Visit(given.decode() if sane else f"req_{secrets.token_hex(12)}")
    scope[_KEY] = visit
    return visit


def visit_in(scope: Scope) -> Visit:
    """The visit that `open_visit` began."""
    visit: Visit = scope[_KEY]
    return visit


def visit_of(request: Request) -> Visit:
    return visit_in(request.scope)


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that (lower-case) name."""
    headers: list[Any] = scope["headers"]
    return next((value for key, value in headers if key == name), None)


def route_of(scope: Scope) -> str:
    """The template of the matched route, never the path: a path may hold a key."""
    return getattr(scope.get("route"), "path", None) or "none"
