"""The written pages: their examples work, and they leave nothing out."""

import re
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from rewardd import errors
from rewardd.config import Config, ModelConfig, SandboxPool, Server, Tenant, TorchPool

pytestmark = pytest.mark.anyio

DOCS = Path(__file__).parents[2] / "docs"
HTTP = (DOCS / "http.md").read_text()
CONFIGURATION = (DOCS / "configuration.md").read_text()
CODES = re.findall(r"^\| \d{3} \|([^|]+)\|", HTTP, re.MULTILINE)
POSTS = re.findall(r"^POST (\S+)\n\n```json\n(.*?)```", HTTP, re.MULTILINE | re.DOTALL)


def test_each_door_has_an_example() -> None:
    assert {path.rpartition("/")[2] for path, _ in POSTS} == {"score", "compare", "steps", "rubric"}


@pytest.mark.parametrize(("path", "body"), POSTS)
async def test_the_examples_work(client: httpx.AsyncClient, path: str, body: str) -> None:
    answer = await client.post(path, content=body)
    assert answer.status_code == 200
    assert [group["status"] for group in answer.json()["groups"]] == ["ok"]


async def test_every_route_is_listed(client: httpx.AsyncClient) -> None:
    paths: dict[str, Any] = (await client.get("/openapi.json")).json()["paths"]
    for path in paths:
        assert path.replace("/v1/models/{model_id}", "/v1/models/{id}") in HTTP


def codes(root: type[errors.RewarddError]) -> list[str]:
    return [root.code, *(code for child in root.__subclasses__() for code in codes(child))]


@pytest.mark.parametrize("code", codes(errors.RewarddError))
def test_every_code_a_caller_can_see_is_listed(code: str) -> None:
    assert code in {"request_error", "start_refused"} or f"`{code}`" in "".join(CODES)


async def test_every_metric_is_listed(client: httpx.AsyncClient) -> None:
    text = (await client.get("/metrics")).text
    for name in re.findall(r"^# TYPE (rewardd_\w+)", text, re.MULTILINE):
        assert name.removesuffix("_created") in HTTP


@pytest.mark.parametrize(
    "section",
    [Server, TorchPool, SandboxPool, ModelConfig, Tenant, Config],
    ids=lambda s: s.__name__,
)
def test_every_key_is_listed(section: type[BaseModel]) -> None:
    for key in section.model_fields:
        assert f"`{key}`" in CONFIGURATION or f"`[{key}" in CONFIGURATION or key == "engine", key


def test_the_written_configuration_is_one() -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", CONFIGURATION, re.DOTALL)
    config = Config(**tomllib.loads(toml))
    assert config.models["helpful"].roles == {"reward": "reward"}
