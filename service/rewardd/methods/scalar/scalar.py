"""Scalar reward: the raw logit of a sequence-classification reward model.

The Bradley-Terry reward model of RLHF (Ouyang et al., arXiv:2203.02155, equation 1), as published
in the form of `*ForSequenceClassification` checkpoints (Skywork-Reward-V2, arXiv:2507.01352, and
most others). No sigmoid is applied: rewards above about 17 would all become exactly 1.
"""

from typing import Annotated

from msgspec import Meta, Struct

from rewardd.core.calls import Pool
from rewardd.core.chat import input_of
from rewardd.core.flow import Flow, ask
from rewardd.core.pointwise import pointwise
from rewardd.core.registry import reward_method
from rewardd.errors import InvalidRequest
from rewardd_types import Group, Response, Reward


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """`label` picks the logit of a head with several; a reward head has one."""

    label: Annotated[int, Meta(ge=0, le=1_000)] | None = None


@reward_method("scalar", family="scalar", roles=("reward",), paper="arXiv:2203.02155")
@pointwise
def scalar(group: Group, response: Response, params: Params) -> Flow[Reward]:
    """The raw logit a reward model gives prompt and response."""
    output = yield from ask(Pool("reward", input_of(group, response)))
    return Reward(value=_pick(output.values[0], params.label))


def _pick(logits: list[float], label: int | None) -> float:
    if label is None and len(logits) > 1:
        raise InvalidRequest(
            f"the head gives {len(logits)} labels; say which is the reward", path="$.params.label"
        )
    if (label or 0) >= len(logits):
        raise InvalidRequest(f"the head gives {len(logits)} labels", path="$.params.label")
    return logits[label or 0]
