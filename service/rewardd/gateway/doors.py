"""The reward doors: four typed ways to one runner. A door promises what its answer carries."""

from collections.abc import Mapping

from msgspec import Struct

from rewardd.core.registry import Gives
from rewardd.errors import WrongDoor
from rewardd.runner import ServedModel


class Door(Struct, frozen=True):
    """A route under /v1/rewards, and what a model must give to be asked through it."""

    name: str
    gives: Gives
    summary: str
    description: str

    @property
    def path(self) -> str:
        return f"/v1/rewards/{self.name}"


DOORS = (
    Door(
        "score",
        "value",
        "A value for each response",
        "Each reward's `value` is the model's score of that response, as the model gives it:"
        " a raw logit stays one.",
    ),
    Door(
        "compare",
        "preference",
        "A preference matrix for each group",
        "`preference[i][j]` is the probability that response i is preferred to response j. A group"
        " of one has a matrix of one cell, an empty group an empty one.",
    ),
    Door(
        "steps",
        "steps",
        "A reward for each reasoning step",
        "Each reward's `steps` has one entry a step, with its place in the response; `value` is"
        " their aggregation. Send a response as `steps`, or as `content` to have it cut.",
    ),
    Door(
        "rubric",
        "verdicts",
        "A verdict for each criterion of a rubric",
        "Each reward's `components` has one verdict a criterion of the group's `rubric`; `value` is"
        " their weighted mean.",
    ),
)

_BY_GIFT: Mapping[str, Door] = {door.gives: door for door in DOORS}


def check_door(door: Door, model: ServedModel) -> None:
    """WrongDoor, naming the right ones, when `model` cannot give what `door` promises."""
    gives = model.spec.gives
    if door.gives in gives:
        return
    right = " or ".join(f"POST {_BY_GIFT[gift].path}" for gift in gives)
    raise WrongDoor(
        f"model `{model.name}` (method `{model.spec.name}`) gives no {door.gives}; use {right}",
        path="$.model",
    )
