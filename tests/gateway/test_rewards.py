"""The reward doors: right answers, and every way a request can be wrong."""

import json
from typing import Any

import httpx
import pytest

from rewardd.assembly import Service
from rewardd.config import Config
from rewardd.errors import StartRefused
from rewardd.gateway.routes.rewards import refuse_if_all_may_retry
from rewardd.runner import Runner, ServedModel
from rewardd_types import ErrorInfo, GroupReward, Reward
from tests.gateway.engines import DOWN, LATE, NAN, TOO_LONG, HashEngine, value_of
from tests.gateway.service import SPECS, ask, client_of, make_service

pytestmark = pytest.mark.anyio

SCORE = "/v1/rewards/score"


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error, after checking that its body is the one body and that its id is there."""
    body = answer.json()
    assert set(body) == {"error"}
    assert {"code", "message", "retryable"} <= set(body["error"])
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


async def test_values_come_in_order_with_ids(client: httpx.AsyncClient) -> None:
    answer = await client.post(SCORE, json=ask("demo-outcome", "4", "5", "4"))
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == "demo-outcome"
    assert body["method"] == "scalar"
    assert body["request_id"] == answer.headers["x-request-id"]
    (group,) = body["groups"]
    assert group["status"] == "ok"
    assert [reward["id"] for reward in group["rewards"]] == ["r0", "r1", "r2"]
    expected = [value_of("4"), value_of("5"), value_of("4")]
    assert [reward["value"] for reward in group["rewards"]] == expected
    assert group["receipts"][0]["pool"] == "main"


async def test_each_door_gives_what_it_promises(client: httpx.AsyncClient) -> None:
    compared = await client.post("/v1/rewards/compare", json=ask("demo-preference", "a", "b"))
    assert len(compared.json()["groups"][0]["preference"]) == 2
    steps = await client.post("/v1/rewards/steps", json=ask("demo-process", "a\nb\nc"))
    assert len(steps.json()["groups"][0]["rewards"][0]["steps"]) == 3
    body = ask("demo-rubric", "a")
    body["groups"][0]["rubric"] = [{"id": "good", "text": "It is good."}]
    verdicts = await client.post("/v1/rewards/rubric", json=body)
    assert set(verdicts.json()["groups"][0]["rewards"][0]["components"]) == {"good"}


async def test_no_responses_give_an_empty_list(client: httpx.AsyncClient) -> None:
    answer = await client.post(SCORE, json=ask("demo-outcome"))
    assert answer.status_code == 200
    assert answer.json()["groups"][0] == {
        "rewards": [],
        "id": None,
        "status": "ok",
        "preference": None,
        "receipts": [],
    }
    answer = await client.post(SCORE, json={"model": "demo-outcome", "groups": []})
    assert answer.json()["groups"] == []


@pytest.mark.parametrize(("replies", "size"), [((), 0), (("a",), 1)])
async def test_small_groups_have_small_matrices(
    client: httpx.AsyncClient, replies: tuple[str, ...], size: int
) -> None:
    answer = await client.post("/v1/rewards/compare", json=ask("demo-preference", *replies))
    assert len(answer.json()["groups"][0]["preference"]) == size


async def test_one_bad_response_among_eight_is_one_error(client: httpx.AsyncClient) -> None:
    replies = [str(i) for i in range(8)]
    replies[3] = NAN
    answer = await client.post(SCORE, json=ask("demo-outcome", *replies))
    assert answer.status_code == 200
    (group,) = answer.json()["groups"]
    assert group["status"] == "partial"
    bad = group["rewards"].pop(3)
    assert (bad["status"], bad["value"], bad["id"]) == ("error", None, "r3")
    assert bad["error"]["code"] == "non_finite"
    assert all(reward["value"] is not None for reward in group["rewards"])


async def test_too_long_is_the_error_of_its_item(client: httpx.AsyncClient) -> None:
    answer = await client.post(SCORE, json=ask("demo-outcome", "fine", TOO_LONG))
    assert answer.status_code == 200
    fine, long = answer.json()["groups"][0]["rewards"]
    assert fine["status"] == "ok"
    assert long["error"]["code"] == "input_too_long"
    assert long["value"] is None


@pytest.mark.parametrize(("mark", "status", "retry_after"), [(DOWN, 503, "1"), (LATE, 504, None)])
async def test_nothing_scored_and_worth_a_retry_is_the_whole_requests_error(
    client: httpx.AsyncClient, mark: str, status: int, retry_after: str | None
) -> None:
    answer = await client.post(SCORE, json=ask("demo-outcome", mark, mark))
    assert answer.status_code == status
    assert error_of(answer)["retryable"] is True
    assert answer.headers.get("retry-after") == retry_after
    mixed = await client.post(SCORE, json=ask("demo-outcome", mark, TOO_LONG))
    assert mixed.status_code == 200
    partly = await client.post(SCORE, json=ask("demo-outcome", mark, "fine"))
    assert partly.status_code == 200


def test_a_code_of_a_methods_own_stays_with_its_response() -> None:
    busy = Reward(status="error", error=ErrorInfo("judge_busy", "busy", retryable=True))
    refuse_if_all_may_retry([GroupReward([busy, busy])])


async def test_unknown_model_says_what_is_served(client: httpx.AsyncClient) -> None:
    answer = await client.post(SCORE, json=ask("demo-outcom", "4"))
    assert answer.status_code == 404
    error = error_of(answer)
    assert (error["code"], error["path"]) == ("unknown_model", "$.model")
    assert "demo-outcome" in error["message"]


async def test_wrong_door_names_the_right_one(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/rewards/compare", json=ask("demo-process", "4"))
    assert answer.status_code == 422
    error = error_of(answer)
    assert error["code"] == "wrong_door"
    assert "POST /v1/rewards/steps or POST /v1/rewards/score" in error["message"]


async def test_missing_field_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/rewards/rubric", json=ask("demo-rubric", "4"))
    reward = answer.json()["groups"][0]["rewards"][0]
    assert (reward["error"]["code"], reward["error"]["path"]) == ("missing_field", "$.rubric")


def _group(text: str) -> str:
    return '{"model": "demo-outcome", "groups": [{"prompt": "p", "responses": [' + text + "]}]}"


DEEP = "[" * 100_000
WRONG = {
    "no JSON": ("{", 400, "malformed_body", None),
    "empty": ("", 400, "malformed_body", None),
    "trailing": (_group("") + "x", 400, "malformed_body", None),
    "NaN": ('{"model": "demo-outcome", "groups": NaN}', 400, "malformed_body", None),
    "depth bomb": (_group('{"content": "a", "extra": {"a": ' + DEEP), 400, "malformed_body", None),
    "deep extra": (
        _group('{"content": "a", "extra": {"a": ' + "[" * 40 + "]" * 40 + "}}"),
        422,
        "invalid_request",
        "$.groups[0].responses[0]",
    ),
    "unknown field": (
        _group('{"content": "a", "weight": 1}'),
        422,
        "invalid_request",
        "$.groups[0].responses[0].weight",
    ),
    "missing field": ('{"groups": []}', 422, "invalid_request", "$.model"),
    "wrong type": ('{"model": 3, "groups": []}', 422, "invalid_request", "$.model"),
    "not an object": ("[]", 422, "invalid_request", "$"),
    "duplicate ids": (
        _group('{"id": "a", "content": "1"}, {"id": "a", "content": "2"}'),
        422,
        "invalid_request",
        "$.groups[0]",
    ),
    "two forms": (
        _group('{"content": "1", "text": "1"}'),
        422,
        "invalid_request",
        "$.groups[0].responses[0]",
    ),
    "lone surrogate": (_group(r'{"content": "\ud800"}'), 400, "malformed_body", None),
    "negative id": (
        _group('{"token_ids": [-1]}'),
        422,
        "invalid_request",
        "$.groups[0].responses[0].token_ids[0]",
    ),
    "big number": (_group('{"token_ids": [' + "9" * 5_000 + "]}"), 422, "invalid_request", None),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_bodies(client: httpx.AsyncClient, case: str) -> None:
    body, status, code, path = WRONG[case]
    answer = await client.post(SCORE, content=body)
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (status, code), error
    if path is not None:
        assert error["path"] == path
    assert (await client.post(SCORE, json=ask("demo-outcome", "4"))).status_code == 200


async def test_nan_weight_is_refused(client: httpx.AsyncClient) -> None:
    body = json.dumps(ask("demo-rubric", "4"))
    body = body.replace('"prompt"', '"rubric": [{"text": "x", "weight": NaN}], "prompt"')
    answer = await client.post("/v1/rewards/rubric", content=body)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "malformed_body")


async def test_invalid_utf8_says_so(client: httpx.AsyncClient) -> None:
    body = json.dumps(ask("demo-outcome", "4")).encode().replace(b"2 + 2", b"2 \xff 2")
    answer = await client.post(SCORE, content=body)
    assert answer.status_code == 400
    assert "UTF-8" in error_of(answer)["message"]


async def test_of_duplicate_keys_the_last_counts(client: httpx.AsyncClient) -> None:
    """Documented behaviour of the decoder, not a wish."""
    body = _group('{"content": "first", "content": "second"}')
    answer = await client.post(SCORE, content=body)
    assert answer.json()["groups"][0]["rewards"][0]["value"] == value_of("second")


async def test_params_are_checked(client: httpx.AsyncClient) -> None:
    answer = await client.post(SCORE, json=ask("demo-preference", "4", params={"scale": 99}))
    assert (answer.status_code, error_of(answer)["path"]) == (422, "$.params")


async def test_a_big_body_and_a_big_answer(client: httpx.AsyncClient) -> None:
    body = ask("demo-outcome")
    reply = {"content": "x" * 3_000}
    body["groups"] = [{"prompt": "p", "responses": [reply] * 900} for _ in range(8)]
    answer = await client.post(SCORE, json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert [len(group["rewards"]) for group in answer.json()["groups"]] == [900] * 8
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_an_error_does_not_quote_a_body_back(client: httpx.AsyncClient) -> None:
    body = json.dumps({**ask("demo-outcome", "4"), "a" * 100_000: 1})
    answer = await client.post(SCORE, content=body)
    assert error_of(answer)["path"].startswith("$.aaa")
    assert len(answer.content) < 5_000


async def test_responses_of_a_request_are_bounded(client: httpx.AsyncClient) -> None:
    reply = {"content": "4"}
    groups = [{"prompt": "p", "responses": [reply] * 4_096} for _ in range(16)]
    groups.append({"prompt": "p", "responses": [reply]})
    answer = await client.post(SCORE, json={"model": "demo-outcome", "groups": groups})
    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")


async def test_bodies_are_bounded(anyio_backend: str) -> None:
    async with client_of(make_service(server={"max_body_mb": 1})) as client:

        async def chunks() -> Any:
            for _ in range(20):
                yield b" " * 100_000

        for content in (b" " * 1_100_000, chunks()):
            answer = await client.post(SCORE, content=content)
            assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("given", ["0", "-1", "soon", "1e3", "9" * 30])
async def test_a_deadline_is_a_number(client: httpx.AsyncClient, given: str) -> None:
    headers = {"x-request-timeout-ms": given}
    answer = await client.post(SCORE, json=ask("demo-outcome", "4"), headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (422, "invalid_request")


async def test_the_deadline_ends_the_work(client: httpx.AsyncClient, service: Service) -> None:
    headers = {"x-request-timeout-ms": "50"}
    answer = await client.post(SCORE, json=ask("blocked", "4"), headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (504, "deadline_exceeded")


async def test_the_scope_carries_who_and_how(client: httpx.AsyncClient, service: Service) -> None:
    body = ask("demo-outcome", "4", explain=True, truncate=True)
    await client.post(SCORE, json=body, headers={"x-request-id": "mine-1"})
    engine = service.pools["main"]
    assert isinstance(engine, HashEngine)
    scope = engine.scopes[-1]
    assert (scope.request_id, scope.explain, scope.truncate) == ("mine-1", True, True)
    assert scope.deadline is not None


async def test_a_broken_engine_costs_its_own_request_only(client: httpx.AsyncClient) -> None:
    answer = await client.post(SCORE, json=ask("broken", "4"))
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert "AttributeError" not in answer.text
    error_of(answer)
    assert (await client.post(SCORE, json=ask("demo-outcome", "4"))).status_code == 200


def test_a_method_without_its_role_is_refused_at_start() -> None:
    model = ServedModel("m", SPECS["scalar"], {}, {})
    with pytest.raises(StartRefused, match=r"roles\.reward"):
        Service(Config(), SPECS, Runner({"m": model}, {"main": HashEngine()}))
