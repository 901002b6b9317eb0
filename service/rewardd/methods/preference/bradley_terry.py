"""Bradley-Terry preference: pairwise probabilities from a reward model's scores.

P(y_i > y_j | x) = sigmoid((r(x, y_i) - r(x, y_j)) / temperature)

The preference model under which RLHF reward models are trained (Bradley and Terry 1952; Ouyang et
al., arXiv:2203.02155, equation 1, where the temperature is 1). N scores give the N x N matrix, so
a group costs N forward passes and not N(N - 1) / 2.
"""

import math
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from rewardd.core.calls import Pool
from rewardd.core.chat import input_of
from rewardd.core.flow import Flow, ask
from rewardd.core.pointwise import pointwise
from rewardd.core.preference import preference_matrix, win_rates
from rewardd.core.registry import reward_method
from rewardd.errors import InvalidRequest, NonFinite
from rewardd_types import Group, GroupReward, Response, Reward

MAX_COMPARED = 512
"""The matrix is quadratic: 512 responses give 262,144 numbers."""


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """`temperature` divides score differences; above 1 it pulls preferences towards 0.5."""

    temperature: Annotated[float, Meta(ge=1e-3, le=1e6)] = 1.0


@reward_method(
    "bradley_terry",
    family="preference",
    roles=("reward",),
    gives=("value", "preference"),
    paper="arXiv:2203.02155",
    metrics=("win_rate",),
)
def bradley_terry(group: Group, params: Params) -> Flow[GroupReward]:
    """Pairwise preferences from scores.

    `value` is the raw score, `preference[i][j]` the probability that response i beats response j,
    and the metric `win_rate` a response's mean preference over all others (null without others).
    """
    if len(group.responses) > MAX_COMPARED:
        raise InvalidRequest(f"at most {MAX_COMPARED} responses are compared", path="$.responses")
    scored = yield from _scores(group)
    matrix = preference_matrix([reward.value for reward in scored.rewards], params.temperature)
    rewards = [
        msgspec.structs.replace(reward, metrics={"win_rate": rate})
        for reward, rate in zip(scored.rewards, win_rates(matrix), strict=True)
    ]
    return GroupReward(rewards=rewards, preference=matrix)


@pointwise
def _scores(group: Group, response: Response) -> Flow[Reward]:
    output = yield from ask(Pool("reward", input_of(group, response)))
    logits = output.values[0]
    if len(logits) != 1:
        raise InvalidRequest(f"the head gives {len(logits)} labels; a reward head gives one")
    if not math.isfinite(logits[0]):  # here, since it would spoil the win rates of its siblings
        raise NonFinite("the model gave a score that is not finite")
    return Reward(value=logits[0])
