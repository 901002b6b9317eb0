"""What the device is asked to do: calls, rendered and checked. Pure data and the choice of a batch.

Validation ends here: a job that is queued can only fail for reasons of the engine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rewardd.core.calls import Generate, Logprobs, Pool
from rewardd.engines.rendering import Rendered
from rewardd.engines.torch.generate import Sampling
from rewardd.engines.torch.plan import Ids, Tokens, fit
from rewardd.errors import InvalidRequest, UnsupportedCall

_SEEDS = range(-(2**63), 2**64)  # what torch.Generator takes
MAX_ROWS = 64  # samples that generate together
CACHED = 8  # keys and values of so many times the token budget are kept while generating
MAX_READS = 4096  # sequences considered for one forward


@dataclass(frozen=True, slots=True)
class ReadJob:
    """Hidden states of a sequence at `positions`, for a Pool or a Logprobs call."""

    call: Pool | Logprobs
    rendered: Rendered
    tokens: Tokens
    positions: Ids
    labels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateJob:
    call: Generate
    rendered: Rendered
    sampling: Sampling


Job: TypeAlias = ReadJob | GenerateJob


def pool_job(call: Pool, rendered: Rendered) -> ReadJob:
    """`classify` reads the last token, found by length and never by pad id; else the step tags."""
    last = [len(rendered.token_ids) - 1]
    if call.task == "token_classify" and call.input.reply and call.input.reply.steps is None:
        raise UnsupportedCall("token_classify reads step tags: the call's reply has no `steps`")
    positions = rendered.tags if call.task == "token_classify" else last
    if not positions:
        raise InvalidRequest("there is no step to read")
    return ReadJob(call, rendered, Tokens(rendered.token_ids), _ids(positions))


def logprobs_job(call: Logprobs, rendered: Rendered, labels: tuple[int, ...]) -> ReadJob:
    """The state before each reply token predicts it; the last state predicts the labels."""
    start, end = reply_span(call, rendered)
    positions = list(range(start - 1, end - 1))
    if labels:
        positions.append(len(rendered.token_ids) - 1)
    return ReadJob(call, rendered, Tokens(rendered.token_ids), _ids(positions), labels)


def _ids(positions: list[int]) -> Ids:
    return np.asarray(positions, dtype=np.int64)  # an empty list would become floats


def reply_span(call: Logprobs, rendered: Rendered) -> tuple[int, int]:
    """Where the reply's tokens stand; an empty span when only labels are asked for."""
    if call.input.reply is None:
        return 1, 1
    if rendered.reply is None:
        raise UnsupportedCall(
            "the chat template rewrites the response, so its tokens cannot be told apart;"
            " send the prompt as `text`"
        )
    if rendered.reply[0] == 0 < rendered.reply[1]:
        raise InvalidRequest("the first token has nothing before it: the prompt is empty")
    return rendered.reply


def generate_job(call: Generate, rendered: Rendered, max_length: int) -> GenerateJob:
    """Room for the continuation, and all numbers, are checked before it is queued."""
    _check_sampling(call)
    room = max_length - len(rendered.token_ids)
    if call.max_tokens > room:
        raise InvalidRequest(
            f"max_tokens {call.max_tokens} after {len(rendered.token_ids)} prompt tokens exceed"
            f" the {max_length} tokens this model reads"
        )
    sampling = Sampling(
        tuple(rendered.token_ids),
        call.seed,
        call.max_tokens,
        call.temperature,
        call.top_p,
        tuple(call.stop),
    )
    return GenerateJob(call, rendered, sampling)


def _check_sampling(call: Generate) -> None:
    """InvalidRequest for a number that would fail the whole batch, or mean nothing."""
    if call.max_tokens < 1:
        raise InvalidRequest(f"max_tokens must be at least 1, not {call.max_tokens}")
    if not 0 <= call.temperature < math.inf:
        raise InvalidRequest(f"temperature must be 0 or more, not {call.temperature}")
    if not 0 < call.top_p <= 1:
        raise InvalidRequest(f"top_p must be above 0 and at most 1, not {call.top_p}")
    if call.seed not in _SEEDS:
        raise InvalidRequest(f"the seed {call.seed} does not fit 64 bits")
    if "" in call.stop:
        raise InvalidRequest("an empty stop string would stop at once")


def choose(jobs: Sequence[Job], budget: int) -> list[int]:
    """The next batch: jobs of the oldest one's kind, up to `budget` unique tokens (or rows)."""
    kind = type(jobs[0])
    same = [index for index, job in enumerate(jobs) if type(job) is kind]
    if kind is GenerateJob:
        return same[: _fit_rows([jobs[index] for index in same[:MAX_ROWS]], CACHED * budget)]
    reads = [(index, job) for index in same[:MAX_READS] if isinstance(job := jobs[index], ReadJob)]
    count = fit([job.tokens for _, job in reads], budget)
    return [index for index, _ in reads[:count]]


def _fit_rows(jobs: Sequence[Job], limit: int) -> int:
    """How many samples, from the first on, keep a cache of at most `limit` tokens; at least one."""
    width = 0
    for count, job in enumerate(jobs):
        room = job.sampling.max_tokens if isinstance(job, GenerateJob) else 0
        width = max(width, len(job.rendered.token_ids) + room)
        if count and (count + 1) * width > limit:
            return count
    return len(jobs)
