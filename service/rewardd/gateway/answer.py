"""Answers: encoded bodies, and the one error body."""

import asyncio
import math
from collections.abc import Sequence

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rewardd.errors import RewarddError
from rewardd.gateway.visit import visit_in
from rewardd_types import ErrorBody, GroupReward, RewardResponse

# About 1 MB of JSON: below it, encoding takes less time than handing it to a thread.
_BIG = 6_000


def json_answer(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def encoded(value: object, status: int = 200) -> Response:
    """A small body, encoded on the spot."""
    return json_answer(msgspec.json.encode(value), status)


def error_answer(error: RewarddError) -> Response:
    """The error body under the error's status. 503 says when to come back."""
    answer = encoded(ErrorBody(error.info), error.status)
    if error.status == 503:
        answer.headers["retry-after"] = "1"
    if error.status == 401:
        answer.headers["www-authenticate"] = "Bearer"
    return answer


async def send_error(error: RewarddError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with `error`, and note its code for the access line."""
    visit_in(scope).code = error.code
    await error_answer(error)(scope, receive, send)


async def reward_answer(model: str, method: str, groups: list[GroupReward], id_: str) -> Response:
    """The body of a reward door; a big one is encoded in a thread, group by group.

    Encoding holds the interpreter lock, so one call for a whole big body would stop the loop from
    any thread; between two groups the loop gets its turn.
    """
    if sum(map(_weight, groups)) < _BIG:
        return encoded(RewardResponse(model, method, groups, id_))
    return json_answer(await asyncio.to_thread(_piecewise, model, method, groups, id_))


def _piecewise(model: str, method: str, groups: Sequence[GroupReward], id_: str) -> bytes:
    pieces = [msgspec.Raw(msgspec.json.encode(group)) for group in groups]
    return msgspec.json.encode(
        {"model": model, "method": method, "groups": pieces, "request_id": id_}
    )


def _weight(group: GroupReward) -> int:
    """Roughly how many rewards' worth of JSON a group is."""
    inside = sum(
        len(reward.steps or ()) + sum(len(seen.token_ids) // 16 for seen in reward.seen or ())
        for reward in group.rewards
    )
    return len(group.rewards) + inside + math.ceil(len(group.preference or ()) ** 2 / 8)
