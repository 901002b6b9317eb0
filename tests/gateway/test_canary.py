"""No key and no prompt in logs or metrics, whatever route and whatever error."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rewardd.keys import make_key
from rewardd.telemetry import JsonLines
from tests.gateway.engines import DOWN, NAN, TOO_LONG
from tests.gateway.service import ask, client_of, make_service

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a"
KEY, LINE = make_key()
DOORS = ("score", "compare", "steps", "rubric")
PATHS = ("/v1/models", f"/v1/models/{CANARY}", "/v1/methods", "/metrics", "/docs", "/livez")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Everything any logger writes at any level, as the server would write it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def bodies() -> Iterator[bytes]:
    prompt = {"prompt": CANARY}
    for model in ("demo-outcome", "demo-process", "demo-rubric", "broken", CANARY):
        for mark in ("", NAN, DOWN, TOO_LONG):
            body = ask(model, f"{CANARY} {mark}", f"{CANARY} 2 {mark}")
            body["groups"][0] |= prompt
            yield json.dumps(body).encode()
    good = json.dumps(ask("demo-outcome", CANARY)).encode()
    yield good[:-4]
    yield good.replace(b"2 + 2", b"\xff" + CANARY.encode())
    yield good.replace(b'"prompt"', b'"' + CANARY.encode() + b'"')
    yield good.replace(b'"r0"', b'"' + CANARY.encode() * 60 + b'"')
    yield json.dumps(ask("demo-preference", CANARY, params={CANARY: CANARY})).encode()
    yield b'"' + CANARY.encode() + b" " * 1_200_000 + b'"'


async def visit_everything(client: httpx.AsyncClient) -> set[int]:
    seen = set()
    bearer = {"authorization": f"Bearer {KEY}"}
    for body in bodies():
        for door in DOORS:
            for path, headers in (("", bearer), (f"/k/{KEY}", {}), (f"/k/{KEY}x", {})):
                url = f"{path}/v1/rewards/{door}"
                seen.add((await client.post(url, content=body, headers=headers)).status_code)
    for path in (*PATHS, f"/{CANARY}", f"/v1/models?{CANARY}={KEY}"):
        for prefix in ("", f"/k/{KEY}", f"/k/{KEY}/k/{KEY}"):
            seen.add((await client.get(prefix + path)).status_code)
            seen.add((await client.delete(prefix + path, headers=bearer)).status_code)
    return seen


async def test_neither_key_nor_prompt_is_written(written: io.StringIO) -> None:
    config: dict[str, Any] = {"tenants": {"lab": {"keys": [LINE]}}, "server": {"max_body_mb": 1}}
    async with client_of(make_service(**config)) as client:
        seen = await visit_everything(client)
        metrics = (await client.get(f"/k/{KEY}/metrics")).text
    assert seen >= {200, 400, 401, 404, 405, 413, 422, 500, 503}
    # httpx, the test's own client, logs the URLs it calls; the server's lines are what counts.
    lines = [line for line in written.getvalue().splitlines() if '"logger":"http' not in line]
    assert len(lines) > 200
    text = "\n".join(lines) + metrics
    assert KEY not in text
    assert KEY.rpartition("_")[2] not in text
    assert CANARY not in text


async def test_the_access_line_has_its_fields(written: io.StringIO) -> None:
    async with client_of(make_service()) as client:
        body = ask("demo-outcome", "4", "5")
        await client.post("/v1/rewards/score", json=body, headers={"x-request-id": "mine"})
        await client.post("/v1/rewards/score", json=ask("broken", "4"))
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    access = [line for line in lines if line["logger"] == "rewardd.access"]
    first = access[0]
    expected = {"request_id": "mine", "tenant": "", "status": 200, "groups": 1, "responses": 2}
    assert expected.items() <= first.items()
    assert first["route"] == "/v1/rewards/score"
    assert first["bytes_in"] > 50
    assert first["bytes_out"] > 50
    failed = {"status": 500, "code": "error", "route": "/v1/rewards/score"}
    assert failed.items() <= access[-1].items()
    unhandled = next(line for line in access if line["message"] == "unhandled")
    assert unhandled["exception"] == "AttributeError"
    assert unhandled["request_id"].startswith("req_")
    assert any("runner.py" in place for place in unhandled["where"])
