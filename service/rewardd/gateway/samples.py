"""Requests that work: for the documentation and for the first line a newcomer pastes.

They are made from what is served, so that an example never names a model that is not there.
"""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from rewardd.gateway.doors import DOORS, Door
from rewardd.runner import ServedModel

_PROMPT = "Compute (12 + 7) * 3 - 5"
_RIGHT = ["12 + 7 = 19", "19 * 3 = 57", "57 - 5 = 52", "answer: 52"]
_WRONG = ["12 + 7 = 19", "19 * 3 = 47", "47 - 5 = 42", "answer: 42"]
_READ: dict[str, Any] = {
    "reference": "52",
    "rubric": [
        {"id": "right", "text": "The answer is right.", "weight": 2.0},
        {"id": "shown", "text": "Each step is shown.", "weight": 1.0},
    ],
    "principle": "Prefer the right answer.",
    "context": "Multiplication comes before subtraction.",
    "persona": "a careful teacher",
    "follow_ups": ["Are you sure?"],
}


def sample_request(
    model: ServedModel, served: Mapping[str, ServedModel], door: Door
) -> dict[str, Any]:
    """A request that `model` answers through `door`."""
    group: dict[str, Any] = {"prompt": _PROMPT, "responses": [_reply(_RIGHT, door)]}
    group["responses"].append(_reply(_WRONG, door))
    for field in sorted(_reads(model, served)):
        if field in _READ:
            group[field] = _READ[field]
    return {"model": model.name, "groups": [group]}


def samples_for(door: Door, served: Mapping[str, ServedModel]) -> dict[str, dict[str, Any]]:
    """One request for each served model that can be asked through `door`, by model."""
    fit = [model for model in served.values() if door.gives in model.spec.gives]
    return {model.name: sample_request(model, served, door) for model in fit}


def curl_line(url: str, model: ServedModel, served: Mapping[str, ServedModel], key: str) -> str:
    """A command that, pasted into a shell, shows `model` at work; `key` may be empty."""
    door = next(door for door in DOORS if door.gives in model.spec.gives)
    body = json.dumps(sample_request(model, served, door))
    bearer = f' -H "Authorization: Bearer {key}"' if key else ""
    return f"curl -s {url}{door.path}{bearer} -d {shlex.quote(body)}"


def _reply(lines: list[str], door: Door) -> dict[str, Any]:
    return {"steps": lines} if door.name == "steps" else {"content": "\n".join(lines)}


def _reads(model: ServedModel, served: Mapping[str, ServedModel]) -> set[str]:
    """The fields that `model` and the models it is composed of read."""
    fields = set(model.spec.reads)
    for name in model.spec.uses(model.spec.parse(model.params, None)):
        fields |= _reads(served[name], served)
    return fields
