"""Self-certainty: how far a policy's predictions are from knowing nothing.

The mean KL divergence of the uniform distribution from the policy's next-token distribution over
the n reply tokens, with vocabulary size V (arXiv:2502.18581):

    SC = -(1 / (n V)) sum_t sum_v log(V p(v | x, y_<t)) = (1 / n) sum_t (-mean_v log p_tv - log V)

Uniform predictions give 0, sharper ones more. It needs no reward model. The released code reads
one position later than the formula; this is the formula.
"""

import math

from msgspec import Struct

from rewardd.core.calls import Logprobs, LogprobsOutput, Reply
from rewardd.core.chat import input_of
from rewardd.core.flow import Flow, ask
from rewardd.core.pointwise import pointwise
from rewardd.core.registry import reward_method
from rewardd.errors import EngineError, InvalidRequest, Unscorable
from rewardd_types import Group, Response, Reward


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """There is nothing to choose."""


@reward_method(
    "self_certainty",
    family="likelihood",
    roles=("policy",),
    paper="arXiv:2502.18581",
    metrics=("num_tokens",),
)
@pointwise
def self_certainty(group: Group, response: Response, params: Params) -> Flow[Reward]:
    """The policy's certainty about a reply, from its distribution over the whole vocabulary."""
    if response.logprobs is not None:
        raise InvalidRequest(
            "self-certainty averages log p over the whole vocabulary at each token, which"
            " log-probabilities of chosen or top-k tokens cannot give; leave `logprobs` out",
            path="$.logprobs",
        )
    asked = input_of(group, response)
    if asked.reply in (Reply(content=""), Reply(text=""), Reply(token_ids=[])):
        raise Unscorable("the reply is empty")
    output = yield from ask(Logprobs("policy", asked, over_vocabulary=True))
    certainties = _certainties(output)
    if not certainties:
        raise Unscorable("the reply has no tokens")
    num_tokens = len(certainties)
    return Reward(
        value=math.fsum(certainties) / num_tokens, metrics={"num_tokens": float(num_tokens)}
    )


def _certainties(output: LogprobsOutput) -> list[float]:
    if output.over_vocabulary and output.vocabulary < 1:
        raise EngineError("the policy did not say how large its vocabulary is")
    return [-mean - math.log(output.vocabulary) for mean in output.over_vocabulary]
