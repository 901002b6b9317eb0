"""Health, metrics and documentation."""

import asyncio
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from rewardd.core.calls import Engine
from rewardd.errors import RewarddError
from rewardd.gateway.answer import encoded
from rewardd.gateway.state import State
from rewardd.telemetry import METRICS_TYPE
from rewardd_types import Health

_HEALTH_S = 5.0
# The page is one file and asks nobody else for anything; the browser is told to hold it to that.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
)


def operation_routes(state: State) -> APIRouter:
    """What a load balancer, a monitor and a newcomer ask."""
    router = APIRouter(tags=["operations"], default_response_class=Response)

    @router.get("/livez", operation_id="livez", summary="Whether the event loop turns")
    async def livez(request: Request) -> Response:
        return encoded(Health("ok"))

    @router.get("/health", operation_id="health", summary="The same as /readyz")
    @router.get("/readyz", operation_id="readyz", summary="Whether every pool can score now")
    async def readyz(request: Request) -> Response:
        health = await _health(state)
        return encoded(health, 200 if health.status == "ok" else 503)

    @router.get("/metrics", operation_id="metrics", summary="Metrics for Prometheus")
    async def metrics(request: Request) -> Response:
        return Response(state.telemetry.render(), media_type=METRICS_TYPE)

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        headers = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
        return Response(_PAGE, media_type="text/html", headers=headers)

    return router


_PAGE = files("rewardd.gateway").joinpath("docs.html").read_bytes()


async def _health(state: State) -> Health:
    if state.draining:
        return Health("draining")
    pools = state.service.pools
    reasons = await asyncio.gather(*map(_reason, pools.values()))
    bad = {name: why for name, why in zip(pools, reasons, strict=True) if why}
    return Health("unavailable" if bad else "ok", bad)


async def _reason(engine: Engine) -> str | None:
    """Why a pool cannot serve now, or None."""
    try:
        async with asyncio.timeout(_HEALTH_S):
            await engine.health()
    except RewarddError as error:
        return error.message
    except TimeoutError:
        return f"no answer within {_HEALTH_S:g} s"
    except Exception as error:
        return type(error).__name__
    return None
