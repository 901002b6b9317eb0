"""The catalogue: models in OpenAI's shape, methods with their parameters' schemas."""

import httpx
import pytest

pytestmark = pytest.mark.anyio


async def test_models_have_openais_shape(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    first = body["data"][0]
    assert {"id", "object", "created", "owned_by"} <= set(first)
    assert (first["id"], first["object"]) == ("demo-outcome", "model")
    assert first["created"] > 1_700_000_000
    assert first["pools"][0]["engine"] == "hash"


async def test_one_model_and_no_model(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models/demo-preference")).json()
    assert (body["method"], body["params"]) == ("pairs", {"scale": 1.0})
    answer = await client.get("/v1/models/org/name")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_model")


async def test_methods_tell_their_parameters(client: httpx.AsyncClient) -> None:
    methods = {item["name"]: item for item in (await client.get("/v1/methods")).json()["data"]}
    schema = methods["scalar"]["params_schema"]
    assert "label" in schema["$defs"]["Params"]["properties"]
    assert methods["verdict"]["reads"] == ["rubric"]
