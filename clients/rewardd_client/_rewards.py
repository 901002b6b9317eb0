"""The flow of the four reward doors: ask, in parts where the whole is too large."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from rewardd_client._encode import (
    CallOptions,
    GroupOptions,
    Prompt,
    cut_options,
    encode,
    group_of,
    request_of,
)
from rewardd_client._errors import APIError, MalformedAnswer, PayloadTooLarge
from rewardd_client._flow import Endpoint, Flow, Request, decode, exchange
from rewardd_client._split import Door, Part, halves, has_too_many, join
from rewardd_types import ErrorInfo, Group, GroupReward, Response, RewardRequest, RewardResponse
from rewardd_types.limits import MAX_BODY_BYTES


def ask_one(
    endpoint: Endpoint,
    door: Door,
    model: str,
    prompt: Prompt,
    responses: Sequence[Response | str],
    options: GroupOptions,
) -> Flow[GroupReward]:
    """One group in, one GroupReward out."""
    fields, call_options = cut_options(options)
    group = group_of(prompt, responses, fields)
    (answer,) = yield from ask(endpoint, door, model, [group], call_options)
    return answer


def ask(
    endpoint: Endpoint, door: Door, model: str, groups: Sequence[Group], options: CallOptions
) -> Flow[list[GroupReward]]:
    """One GroupReward a group, in order."""
    call = _Call(endpoint, door, endpoint.deadline(options.get("timeout_s")))
    return (yield from _ask(call, request_of(model, groups, options), uuid4().hex))


@dataclass(frozen=True, slots=True)
class _Call:
    """What all parts of a call share."""

    endpoint: Endpoint
    door: Door
    deadline: float


def _ask(call: _Call, request: RewardRequest, request_id: str) -> Flow[list[GroupReward]]:
    try:
        return (yield from _ask_whole(call, request, request_id))
    except PayloadTooLarge as error:
        parts = halves(call.door, request)
        if parts is None:
            raise
        refusal = error
    return (yield from _ask_halves(call, parts, request_id, refusal))


def _ask_whole(call: _Call, request: RewardRequest, request_id: str) -> Flow[list[GroupReward]]:
    body = _encode_within_limits(call.door, request, request_id)
    path = f"/v1/rewards/{call.door}"
    sent = Request("POST", path, call.deadline, request_id, body)
    answer = yield from exchange(call.endpoint, sent)
    groups = decode(answer.body, RewardResponse).groups
    check_answer(request.groups, groups)
    return groups


def _encode_within_limits(door: Door, request: RewardRequest, request_id: str) -> bytes:
    """The body; raises the server's own refusal where it is certain, to spare the upload."""
    if not has_too_many(door, request):
        body = encode(request)
        if len(body) <= MAX_BODY_BYTES:
            return body
    message = f"the body is larger than {MAX_BODY_BYTES} bytes"
    info = ErrorInfo(code="body_too_large", message=message, retryable=False)
    raise PayloadTooLarge(info, status=413, request_id=request_id)


def _ask_halves(
    call: _Call, parts: tuple[Part, Part], request_id: str, refusal: PayloadTooLarge
) -> Flow[list[GroupReward]]:
    """Ask one after the other: two large bodies at once would be what the server refused.

    Each part has a request id of its own, made from the whole's, so that a log line names one body.
    """
    separator = "" if "." in request_id else "."
    first, second = parts
    left = yield from _ask_part(call, first, f"{request_id}{separator}0")
    if second.first_response and left[0].preference is not None:
        # A model that compares responses behind a pointwise door: halves would change its values.
        raise refusal
    right = yield from _ask_part(call, second, f"{request_id}{separator}1")
    return join(first, left, second, right)


def _ask_part(call: _Call, part: Part, request_id: str) -> Flow[list[GroupReward]]:
    try:
        return (yield from _ask(call, part.request, request_id))
    except APIError as error:
        error.path = part.path_in_whole(error.path)
        raise


def check_answer(groups: Sequence[Group], answers: Sequence[GroupReward]) -> None:
    """Raise MalformedAnswer unless there is one reward a response, with the ids that were sent.

    A reward that lands on a neighbour is worse than none: training would go on, wrongly.
    """
    if len(answers) != len(groups):
        raise MalformedAnswer(f"{len(groups)} groups were sent, {len(answers)} came back")
    for index, (group, answer) in enumerate(zip(groups, answers, strict=True)):
        _check_group(f"group {index}", group, answer)


def _check_group(name: str, group: Group, answer: GroupReward) -> None:
    num_sent, num_got = len(group.responses), len(answer.rewards)
    if num_got != num_sent:
        raise MalformedAnswer(f"{name} has {num_sent} responses, {num_got} rewards came back")
    sent_ids = [group.id, *(response.id for response in group.responses)]
    got_ids = [answer.id, *(reward.id for reward in answer.rewards)]
    for sent, got in zip(sent_ids, got_ids, strict=True):
        if sent is not None and got != sent:
            raise MalformedAnswer(f"{name}: the id {sent!r} came back as {got!r}")
    matrix = answer.preference
    if matrix is not None and [len(row) for row in matrix] != [num_sent] * num_sent:
        raise MalformedAnswer(f"{name}: the preference matrix is not {num_sent} x {num_sent}")
