"""Mathematical answer: is the reply's final answer equal to the reference?

The verifiable reward of mathematical RL (arXiv:2501.12948, section 2.2.2), decided by Math-Verify
0.9.0, which compares LaTeX by value: 1/2 equals 0.5 and \\frac{1}{2}. It evaluates what a policy
wrote, so it runs in a sandboxed process (`Execute`), never in the server.
"""

from typing import Annotated

from msgspec import Meta, Struct

from rewardd.core.calls import Execute
from rewardd.core.chat import response_text
from rewardd.core.extraction import final_answer
from rewardd.core.flow import Flow, ask
from rewardd.core.pointwise import pointwise
from rewardd.core.registry import reward_method
from rewardd.errors import InvalidRequest
from rewardd_types import Group, Response, Reward


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """A comparison that takes longer than `timeout_s` is killed and is an error."""

    timeout_s: Annotated[float, Meta(gt=0.0, le=600.0)] = 10.0


@reward_method(
    "math_answer",
    family="rule",
    roles=("verifier",),
    reads=("reference",),
    paper="arXiv:2501.12948",
    metrics=("parsed",),
)
@pointwise
def math_answer(group: Group, response: Response, params: Params) -> Flow[Reward]:
    """1 when the final answer equals the reference (or one of several), else 0.

    A reply without an answer, or whose answer is no mathematics, is wrong: 0 with the metric
    `parsed` 0. A verifier that crashes or is killed says nothing about the reply: that is an error,
    as is a reference that cannot be parsed.
    """
    arguments = {"gold": _golds(group), "answer": final_answer(response_text(response))}
    output = yield from ask(Execute("verifier", "math_verify", arguments, params.timeout_s))
    result = output.result
    if result["bad_gold"] is not None:
        raise InvalidRequest(
            f"reference {result['bad_gold']} is no mathematics", path="$.reference"
        )
    return Reward(value=float(result["right"]), metrics={"parsed": float(result["parsed"])})


def _golds(group: Group) -> list[str]:
    references = group.reference if isinstance(group.reference, list) else [group.reference or ""]
    if not references:
        raise InvalidRequest("`reference` is an empty list", path="$.reference")
    return [final_answer(reference) or reference for reference in references]
