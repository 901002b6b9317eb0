"""How long a request is worth working for: until its deadline, and while its caller is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from rewardd.errors import InvalidRequest
from rewardd.gateway.visit import header


def patience_s(scope: Scope, longest_s: float) -> float:
    """Seconds the caller will wait (X-Request-Timeout-Ms), at most `longest_s`."""
    given = header(scope, b"x-request-timeout-ms")
    if given is None:
        return longest_s
    if not given.isdigit() or len(given) > 12 or int(given) == 0:
        raise InvalidRequest("the header X-Request-Timeout-Ms is not a number of milliseconds")
    return min(longest_s, int(given) / 1000)


@asynccontextmanager
async def while_present(receive: Receive) -> AsyncIterator[None]:
    """Cancel the work inside, and raise ClientDisconnect, when the caller goes away.

    One task watches; the work itself stays in the caller's task, as with `asyncio.timeout`.
    """
    watch = _Watch(receive)
    try:
        yield
    except asyncio.CancelledError:
        if watch.left and watch.working.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        watch.task.cancel()


class _Watch:
    """Waits for the caller's leaving; then cancels the task that made it."""

    def __init__(self, receive: Receive) -> None:
        working = asyncio.current_task()
        if working is None:
            raise RuntimeError("nobody to cancel: not inside a task")
        self.working = working
        self.left = False
        self.task = asyncio.create_task(self._wait(receive))

    async def _wait(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self.working.cancel()
