"""Health, metrics, request ids, and the answers of no route."""

import httpx
import pytest

from rewardd.commands.serve import announce
from rewardd.gateway.app import create_app
from rewardd.telemetry import Telemetry
from rewardd_types import GroupReward, Reward
from tests.gateway.engines import NAN
from tests.gateway.service import ask, client_of, make_service

pytestmark = pytest.mark.anyio


async def test_health_routes_of_a_healthy_server(client: httpx.AsyncClient) -> None:
    for path in ("/livez", "/readyz", "/health"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "pools": {}})


async def test_an_unhealthy_pool_is_named_but_the_process_lives(anyio_backend: str) -> None:
    async with client_of(make_service(unhealthy=True)) as client:
        for path in ("/readyz", "/health"):
            answer = await client.get(path)
            assert answer.status_code == 503
            assert answer.json() == {
                "status": "unavailable",
                "pools": {"sick": "the device is lost"},
            }
        assert (await client.get("/livez")).status_code == 200


async def test_a_draining_server_is_not_ready_but_answers(anyio_backend: str) -> None:
    app = create_app(make_service())
    app.state.gateway.draining = True
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
        assert (await client.get("/livez")).status_code == 200
        scored = await client.post("/v1/rewards/score", json=ask("demo-outcome", "4"))
        assert scored.status_code == 200


async def test_no_route_and_no_verb(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    answer = await client.get("/v1/rewards/score")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    assert (await client.get("/v1/models/")).status_code == 404


async def test_sane_request_ids_are_echoed(client: httpx.AsyncClient) -> None:
    answer = await client.get("/livez", headers={"x-request-id": "step-7:rank-0"})
    assert answer.headers["x-request-id"] == "step-7:rank-0"
    for strange in ("a b", "x" * 200, '"', ""):
        answer = await client.get("/nothing", headers={"x-request-id": strange})
        assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["server-timing"].startswith("total;dur=")


def samples(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_metrics_count_what_happened(client: httpx.AsyncClient) -> None:
    score = "/v1/rewards/score"
    await client.post(score, json=ask("demo-outcome", "4", "5", NAN))
    await client.post(score, json=ask("demo-outcome", "4", "4"))
    await client.post(score, json=ask("demo-outcome", "4"))
    await client.post(score, json=ask("nobody", "4"))
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    seen = samples(answer.text)
    assert seen[f'rewardd_requests_total{{route="{score}",status="200"}}'] == 3
    assert seen[f'rewardd_requests_total{{route="{score}",status="404"}}'] == 1
    assert seen['rewardd_rewards_total{model="demo-outcome",status="ok"}'] == 5
    assert seen['rewardd_reward_errors_total{code="non_finite",model="demo-outcome"}'] == 1
    assert seen['rewardd_groups_total{model="demo-outcome",zero_variance="true"}'] == 1
    assert seen['rewardd_zero_variance_ratio{model="demo-outcome"}'] == 0.5
    assert seen['rewardd_error_ratio{model="demo-outcome"}'] == pytest.approx(1 / 6)
    assert seen['rewardd_tokens_total{kind="reused",pool="main"}'] == 15
    assert seen["rewardd_requests_in_flight"] == 1
    assert seen[f'rewardd_request_seconds_count{{route="{score}"}}'] == 4
    assert "nobody" not in answer.text


def test_the_announced_url_keeps_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    announce(make_service(), "http://[fe80::1]:8600")
    assert "docs: http://[fe80::1]:8600/docs" in capsys.readouterr().out


def test_rewards_without_values_have_no_variance() -> None:
    telemetry = Telemetry()
    telemetry.rewarded("pairs", [GroupReward([Reward(), Reward()])])
    assert b'zero_variance="true"' not in telemetry.render()


async def test_two_apps_in_one_process_count_apart(anyio_backend: str) -> None:
    async with client_of(make_service()) as one, client_of(make_service()) as other:
        await one.get("/livez")
        assert "/livez" in (await one.get("/metrics")).text
        assert "/livez" not in (await other.get("/metrics")).text
