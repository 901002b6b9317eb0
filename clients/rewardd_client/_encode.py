"""From what is convenient to write to what the wire carries."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, cast

import msgspec

from rewardd_types import Criterion, Group, Message, Response, RewardRequest

Prompt: TypeAlias = str | Sequence[Message | Mapping[str, Any]]
"""One user turn, or a conversation as Messages or dicts of `role` and `content`."""


class CallOptions(TypedDict, total=False):
    """What every reward verb takes besides its input.

    `params` override the model's parameters for this call; `explain` returns what the model read;
    `truncate` lets an input longer than the model's context be cut, and reported;
    `timeout_s` replaces the client's deadline for the whole call, retries and splits included.
    """

    params: dict[str, Any] | None
    explain: bool
    truncate: bool
    timeout_s: float | None


class GroupFields(TypedDict, total=False):
    """What a method may read besides prompt and responses; see `Group`."""

    id: str | None
    reference: str | list[str] | None
    rubric: Sequence[Criterion | str] | None
    principle: str | None
    context: str | list[str] | None
    persona: str | None
    tools: list[dict[str, Any]] | None
    images: list[str] | None
    follow_ups: list[str] | None
    extra: dict[str, Any] | None


class GroupOptions(GroupFields, CallOptions, total=False):
    """The keywords of the verbs that take one group."""


def group_of(prompt: Prompt, responses: Sequence[Response | str], fields: GroupFields) -> Group:
    """One group. Raises TypeError or ValueError where it could not be one."""
    given: dict[str, Any] = {**fields}
    for name, value in (("responses", responses), ("rubric", given.get("rubric"))):
        if isinstance(value, str):
            # A string is a sequence of strings: each letter would be one of them.
            raise TypeError(f"`{name}` is a list, also for one")
    if given.get("rubric") is not None:
        given["rubric"] = [_criterion(line) for line in given["rubric"]]
    given["prompt" if isinstance(prompt, str) else "messages"] = _prompt(prompt)
    return Group(responses=[_response(response) for response in responses], **given)


def cut_options(options: GroupOptions) -> tuple[GroupFields, CallOptions]:
    """The keywords of a one-group verb, apart: what describes the group, and the call."""
    call = {name: value for name, value in options.items() if name in _CALL_NAMES}
    fields = {name: value for name, value in options.items() if name not in _CALL_NAMES}
    return cast(GroupFields, fields), cast(CallOptions, call)


def request_of(model: str, groups: Sequence[Group], options: CallOptions) -> RewardRequest:
    given: dict[str, Any] = {k: v for k, v in options.items() if k != "timeout_s"}
    return RewardRequest(model=model, groups=list(groups), **given)


def encode(request: RewardRequest) -> bytes:
    return msgspec.json.encode(request)


_CALL_NAMES = CallOptions.__optional_keys__


def _prompt(prompt: Prompt) -> str | list[Message]:
    return prompt if isinstance(prompt, str) else [_message(message) for message in prompt]


def _message(message: Message | Mapping[str, Any]) -> Message:
    if isinstance(message, Message):
        return message
    try:
        return msgspec.convert(dict(message), Message)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a message: {error}") from error


def _response(response: Response | str) -> Response:
    if isinstance(response, Response):
        return response
    if isinstance(response, str):
        return Response(content=response)
    raise TypeError(f"a response is a str or a Response, not {type(response).__name__}")


def _criterion(line: Criterion | str) -> Criterion:
    return Criterion(text=line) if isinstance(line, str) else line
