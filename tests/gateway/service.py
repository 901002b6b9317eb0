"""A Service over the small engines, with models named as the demo names them."""

from typing import Any

import httpx

from rewardd.assembly import Service
from rewardd.config import Config
from rewardd.core.calls import Engine
from rewardd.gateway.app import create_app
from rewardd.runner import Runner, ServedModel
from tests.gateway.engines import BlockedEngine, BrokenEngine, HashEngine, UnhealthyEngine
from tests.gateway.methods import specs

SPECS = specs()
MODELS = {
    "demo-outcome": ("scalar", {"reward": "main"}, {}),
    "demo-preference": ("pairs", {"reward": "main"}, {}),
    "demo-process": ("stepwise", {"reward": "main"}, {}),
    "demo-rubric": ("verdict", {"judge": "main"}, {}),
    "demo-certainty": ("scalar", {"reward": "main"}, {}),
    "demo-math": ("match", {}, {}),
    "demo-mix": ("mix", {}, {"models": ["demo-math"]}),
    "blocked": ("scalar", {"reward": "blocked"}, {}),
    "broken": ("scalar", {"reward": "broken"}, {}),
}


def make_service(*, unhealthy: bool = False, **config: Any) -> Service:
    pools: dict[str, Engine] = {
        "main": HashEngine(),
        "blocked": BlockedEngine(),
        "broken": BrokenEngine(),
    }
    if unhealthy:
        pools["sick"] = UnhealthyEngine()
    models = {
        name: ServedModel(name, SPECS[method], roles, params)
        for name, (method, roles, params) in MODELS.items()
    }
    return Service(Config(**config), SPECS, Runner(models, pools))


def client_of(service: Service) -> httpx.AsyncClient:
    """A client that calls the app of `service` in this process."""
    transport = httpx.ASGITransport(create_app(service))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def ask(model: str = "demo-outcome", *replies: str, **fields: Any) -> dict[str, Any]:
    """The body of a request with one group."""
    responses = [{"id": f"r{i}", "content": reply} for i, reply in enumerate(replies)]
    return {"model": model, "groups": [{"prompt": "2 + 2", "responses": responses}], **fields}
