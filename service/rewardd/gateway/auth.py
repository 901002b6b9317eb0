"""Who is calling: an API key in the Bearer header, or in the path for those who can send none.

Pure ASGI, before routing, so that no route can be forgotten: what is not public needs a key.
"""

import ipaddress
import re
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from rewardd.config import Config
from rewardd.errors import StartRefused, Unauthorized
from rewardd.gateway.answer import send_error
from rewardd.gateway.visit import header, visit_in
from rewardd.keys import KeyRing

PUBLIC = frozenset({"/livez", "/readyz", "/health"})
_IN_PATH = re.compile(r"/k/([^/]*)(/.*)?", re.DOTALL)


def check_exposure(config: Config) -> None:
    """Refuse to serve everyone: without API keys, only this machine may reach the server.

    StartRefused, too, when a tenant's key line is unreadable.
    """
    if KeyRing(config.tenants) or _is_loopback(config.server.host):
        return
    raise StartRefused(
        f"listening on {config.server.host} without API keys would let anyone in; make a key with"
        " `rewardd key TENANT` and put its line into the configuration, or listen on 127.0.0.1"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Auth:
    """Answers 401 without a valid key; takes a key out of the path before anything sees it."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        key = _take_path_key(scope) or _bearer_key(scope)
        if self.keys and scope["path"] not in PUBLIC:
            tenant = self.keys.tenant_of(key) if key else None
            if tenant is None:
                await self._refuse(key, scope, receive, send)
                return
            visit_in(scope).tenant = tenant
        await self.app(scope, receive, send)

    async def _refuse(self, key: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        what = "this API key is not known" if key else "an API key is needed"
        error = Unauthorized(f"{what}: send `Authorization: Bearer KEY`, or call /k/KEY/...")
        await send_error(error, scope, receive, send)


def _take_path_key(scope: Scope) -> str | None:
    """Cut `/k/KEY` off the path, in place, and give the key."""
    match = _IN_PATH.fullmatch(scope["path"])
    if match is None:
        return None
    scope["path"] = match[2] or "/"
    scope["raw_path"] = scope["path"].encode("utf-8", "surrogateescape")
    return match[1]


def _bearer_key(scope: Scope) -> str | None:
    given: Any = header(scope, b"authorization") or b""
    scheme, _, key = given.partition(b" ")
    return key.strip().decode("latin-1") if scheme.lower() == b"bearer" else None
