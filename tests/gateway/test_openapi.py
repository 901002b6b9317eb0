"""The documentation: examples that work when executed, schemas without an unbounded field."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio

DOORS = ("score", "compare", "steps", "rubric")


async def document_of(client: httpx.AsyncClient) -> dict[str, Any]:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return document


def examples(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Every operation with every body it shows, its parameters' examples filled in."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                path = path.replace(f"{{{parameter['name']}}}", str(parameter.get("example")))
            body = operation.get("requestBody")
            if body is None:
                yield method, path, None
                continue
            for example in body["content"]["application/json"]["examples"].values():
                yield method, path, example["value"]


async def test_every_example_works(client: httpx.AsyncClient) -> None:
    shown = list(examples(await document_of(client)))
    assert {path for _, path, _ in shown} >= {f"/v1/rewards/{door}" for door in DOORS}
    broken = {"broken", "blocked"}
    run = [item for item in shown if not (item[2] and item[2]["model"] in broken)]
    assert {body["model"] for _, _, body in run if body} == {
        "demo-outcome",
        "demo-preference",
        "demo-process",
        "demo-rubric",
        "demo-certainty",
        "demo-math",
        "demo-mix",
    }
    for method, path, body in run:
        answer = await client.request(method, path, json=body)
        assert answer.status_code == 200, (path, body, answer.text)
        groups = answer.json().get("groups", []) if body else []
        assert [group["status"] for group in groups] == ["ok"] * len(groups), answer.text


async def test_references_lead_somewhere_and_ids_are_unique(client: httpx.AsyncClient) -> None:
    document = await document_of(client)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', str(document).replace("'", '"')))
    assert references == set(document["components"]["schemas"])
    operations = [op for item in document["paths"].values() for op in item.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(op["summary"] and op["tags"] for op in operations)
    assert document["openapi"].startswith("3.1")


def unbounded(schema: Any, where: str) -> Iterator[str]:
    """Places of a schema that a caller could fill without end."""
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            yield from unbounded(item, f"{where}[{index}]")
        return
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    fixed = "enum" in schema or "const" in schema
    if kind == "string" and not fixed and "maxLength" not in schema:
        yield where
    if kind == "array" and "maxItems" not in schema:
        yield where
    if kind in ("integer", "number") and not {"minimum", "maximum"} <= set(schema):
        yield where
    if kind == "object" and "properties" not in schema and "maxProperties" not in schema:
        yield where
    for name, inner in schema.items():
        if name not in ("default", "examples", "enum", "required"):
            yield from unbounded(inner, f"{where}.{name}")


async def test_no_field_of_a_request_is_unbounded(client: httpx.AsyncClient) -> None:
    schemas = (await document_of(client))["components"]["schemas"]
    asked, todo = set(), ["RewardRequest"]
    while todo:
        name = todo.pop()
        asked.add(name)
        inner = re.findall(r"#/components/schemas/(\w+)", str(schemas[name]))
        todo += [other for other in inner if other not in asked]
    assert asked == {"RewardRequest", "Group", "Response", "Message", "Criterion"}
    assert [place for name in asked for place in unbounded(schemas[name], name)] == []


def test_the_lint_finds_an_unbounded_field() -> None:
    open_ended: dict[str, Any] = {"type": "array", "maxItems": 2, "items": {"type": "string"}}
    assert list(unbounded({"type": "object", "properties": {"a": open_ended}}, "X"))


async def test_strict_requests_say_so(client: httpx.AsyncClient) -> None:
    schemas = (await document_of(client))["components"]["schemas"]
    assert schemas["Group"]["additionalProperties"] is False


async def test_the_page_asks_nobody_else(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in answer.headers["content-security-policy"]
    page = answer.text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert "@import" not in page
    assert not re.search(r"\burl\(\s*['\"]?[a-z]+:", page)
    assert "openapi.json" in page
