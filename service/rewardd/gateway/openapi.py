"""The OpenAPI document: FastAPI's list of routes with the wire types' own schemas and examples."""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from rewardd.assembly import Service
from rewardd.gateway.auth import PUBLIC
from rewardd.gateway.doors import DOORS
from rewardd.gateway.samples import samples_for
from rewardd.runner import ServedModel
from rewardd_types import (
    ErrorBody,
    Health,
    MethodList,
    ModelInfo,
    ModelList,
    RewardRequest,
    RewardResponse,
)

_ANSWERS: dict[str, type[msgspec.Struct]] = {
    **{door.path: RewardResponse for door in DOORS},
    "/v1/models": ModelList,
    "/v1/models/{model_id}": ModelInfo,
    "/v1/methods": MethodList,
    "/livez": Health,
    "/readyz": Health,
    "/health": Health,
}
_ABOUT = """\
Send groups, one prompt with N responses each, and get one reward a response, in order.

A response that cannot be scored has an `error` and no `value`: a failure is never a number, and its
siblings are scored. When nothing could be scored and a retry may help, the whole request answers
503 or 504. Numbers must be finite; unknown fields are refused; of duplicate keys in one JSON object
the last one counts; free-form fields hold at most 256 KiB and 16 levels.

Headers: `X-Request-Id` is echoed (or made up), `X-Request-Timeout-Ms` says how long you will wait.
With API keys, send `Authorization: Bearer KEY`, or call `/k/KEY/...` where headers cannot be set.
"""
_REFUSALS = {
    "400": "The body is no JSON, no UTF-8, or nested too deep",
    "401": "No API key, or an unknown one",
    "404": "No such model",
    "413": "The body is larger, or has more responses, than the server takes",
    "422": "A field is wrong: `path` says which",
    "500": "The server failed",
    "503": "Nothing could be scored now; come back after `Retry-After` seconds",
    "504": "The deadline passed before anything was scored",
}
_DEADLINE = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "How long the caller will wait. What is not scored by then is an error.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 86_400_000},
}
_REF = "#/components/schemas/{name}"


def document(app: FastAPI, service: Service) -> bytes:
    """The document as JSON; its examples name models that `service` serves."""
    spec = get_openapi(title="rewardd", version=app.version, description=_ABOUT, routes=app.routes)
    types = [RewardRequest, ErrorBody, *dict.fromkeys(_ANSWERS.values())]
    _, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    spec["components"] = {
        "schemas": schemas,
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    for path, operations in spec["paths"].items():
        for operation in operations.values():
            _describe_answers(path, operation, bool(service.config.tenants))
    _describe_doors(spec["paths"], service.runner.models)
    _describe_model(spec["paths"]["/v1/models/{model_id}"]["get"], service.runner.models)
    return msgspec.json.encode(spec)


def _describe_answers(path: str, operation: dict[str, Any], keyed: bool) -> None:
    answer = _ANSWERS.get(path)
    plain = {"text/plain": {"schema": {"type": "string"}}}
    operation["responses"] = {
        "200": {"description": "OK", "content": _json(answer) if answer else plain}
    }
    if path in PUBLIC:
        operation["security"] = []
        if path != "/livez":
            operation["responses"]["503"] = {"description": "Not now", "content": _json(Health)}
    elif keyed:
        operation["security"] = [{"key": []}]
        operation["responses"]["401"] = _refusal("401")


def _describe_doors(paths: dict[str, Any], served: Mapping[str, ServedModel]) -> None:
    for door in DOORS:
        operation = paths[door.path]["post"]
        examples = samples_for(door, served)
        if examples:
            named = {name: {"summary": name, "value": body} for name, body in examples.items()}
            content = {**_json(RewardRequest)["application/json"], "examples": named}
        else:
            operation["description"] += f" No model served here gives {door.gives}."
            content = _json(RewardRequest)["application/json"]
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
        operation["parameters"] = [_DEADLINE]
        operation["responses"].update({status: _refusal(status) for status in _REFUSALS})


def _describe_model(operation: dict[str, Any], served: Mapping[str, ServedModel]) -> None:
    operation["parameters"] = [
        {
            "name": "model_id",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": 256},
            "example": next(iter(served), "demo-outcome"),
        }
    ]
    operation["responses"]["404"] = _refusal("404")


def _json(answer: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(name=answer.__name__)}}}


def _refusal(status: str) -> dict[str, Any]:
    return {"description": _REFUSALS[status], "content": _json(ErrorBody)}
