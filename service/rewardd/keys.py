"""API keys: `rwd_<id>_<secret>`. The configuration holds hashes; a key is shown once.

The secret is 256 random bits, so a plain SHA-256 cannot be searched backwards and a slow hash
would only make wrong keys an attack on the server.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

from rewardd.config import Tenant
from rewardd.errors import StartRefused

_LINE = re.compile(r"([0-9a-f]{8}):([0-9a-f]{64})")
_ID = slice(len("rwd_"), len("rwd_") + 8)


def make_key() -> tuple[str, str]:
    """A new key, and the line of the configuration that recognises it."""
    id_ = secrets.token_hex(4)
    key = f"rwd_{id_}_{secrets.token_urlsafe(32)}"
    return key, f"{id_}:{_digest(key)}"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class KeyRing:
    """Who a key belongs to. Without tenants it is empty, and the server is open."""

    def __init__(self, tenants: Mapping[str, Tenant]) -> None:
        self._lines: dict[str, tuple[str, str]] = {}
        for name, tenant in tenants.items():
            for line in tenant.keys:
                self._add(name, line)

    def __bool__(self) -> bool:
        return bool(self._lines)

    def tenant_of(self, key: str) -> str | None:
        """The tenant of `key`, or None; takes the same time for a known and an unknown id."""
        nobody = ("", "0" * 64)
        name, digest = self._lines.get(key[_ID], nobody)
        known = hmac.compare_digest(_digest(key), digest)
        return name if known else None

    def _add(self, name: str, line: str) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            raise StartRefused(f"tenant `{name}`: not a line made by `rewardd key {name}`")
        if match[1] in self._lines:
            raise StartRefused(f"tenant `{name}`: the key id {match[1]} is given twice")
        self._lines[match[1]] = (name, match[2])
