"""Bodies of the four reward doors. Requests are strict; answers may grow fields."""

from typing import Annotated

from msgspec import Meta, Struct

from rewardd_types.freeform import check_freeform
from rewardd_types.groups import FreeForm, Group, check_unique
from rewardd_types.limits import MAX_GROUPS, Name
from rewardd_types.rewards import GroupReward


class RewardRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Score `groups` with the served reward `model`.

    `params` override the model's configured parameters for this request; `explain` returns what
    each model read; `truncate` allows an input longer than the model's context to be cut, which is
    then reported (otherwise it is an error of that response).
    """

    model: Name
    groups: Annotated[list[Group], Meta(max_length=MAX_GROUPS)]
    params: FreeForm | None = None
    explain: bool = False
    truncate: bool = False

    def __post_init__(self) -> None:
        check_unique("group", [group.id for group in self.groups])
        check_freeform("params", self.params)


class RewardResponse(Struct, frozen=True):
    """One GroupReward a group, in order."""

    model: str
    method: str
    groups: list[GroupReward]
    request_id: str | None = None
