"""The outermost layer: request ids, the access line, and the last net for errors."""

import asyncio
import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rewardd.errors import EngineUnavailable, RewarddError
from rewardd.gateway.answer import send_error
from rewardd.gateway.state import State
from rewardd.gateway.visit import Visit, open_visit, route_of

log = logging.getLogger("rewardd.access")
_QUIET = frozenset({"/livez", "/readyz", "/health", "/metrics"})
_CLIENT_LEFT = 499


class Access:
    """Counts and logs every request once; what nobody caught becomes a 500 with the error body."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = open_visit(scope)
        answer = _Answer(visit, send)
        self.state.telemetry.in_flight.inc()
        try:
            await self._answer(scope, receive, answer)
        finally:
            self.state.telemetry.in_flight.dec()
            self._close(route_of(scope), visit)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self.app(scope, receive, answer)
        except ClientDisconnect:
            answer.visit.status = _CLIENT_LEFT
        except asyncio.CancelledError:
            if not self.state.draining or answer.visit.status:
                raise
            # uvicorn's patience has ended; this is the last word to the caller.
            stopping = EngineUnavailable("the server is stopping")
            await send_error(stopping, scope, receive, answer)
        except Exception:
            log.exception("unhandled", extra={"fields": {"request_id": answer.visit.request_id}})
            if answer.visit.status:
                raise
            await send_error(_internal(), scope, receive, answer)

    def _close(self, route: str, visit: Visit) -> None:
        seconds = visit.seconds
        self.state.telemetry.answered(route, visit.status, seconds)
        level = logging.DEBUG if route in _QUIET else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "request", extra={"fields": _fields(route, visit, seconds)})


def _internal() -> RewarddError:
    return RewarddError("the server failed; its log has more under this request's id")


def _fields(route: str, visit: Visit, seconds: float) -> dict[str, str | int | float]:
    return {
        "request_id": visit.request_id,
        "tenant": visit.tenant,
        "route": route,
        "status": visit.status,
        "code": visit.code,
        "ms": round(seconds * 1000, 1),
        "groups": visit.num_groups,
        "responses": visit.num_responses,
        "bytes_in": visit.bytes_in,
        "bytes_out": visit.bytes_out,
    }


class _Answer:
    """`send`, with the request's id put on the answer and the answer's size noted."""

    def __init__(self, visit: Visit, send: Send) -> None:
        self.visit = visit
        self.send = send

    async def __call__(self, message: Message) -> None:
        visit = self.visit
        if message["type"] == "http.response.start":
            visit.status = message["status"]
            timing = f"total;dur={visit.seconds * 1000:.1f}".encode()
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", visit.request_id.encode()),
                (b"server-timing", timing),
            ]
        else:
            visit.bytes_out += len(message.get("body", b""))
        await self.send(message)
