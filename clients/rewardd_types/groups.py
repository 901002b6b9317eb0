"""What a caller sends: groups. One prompt, N responses, and what the method may read besides."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from rewardd_types.freeform import check_freeform
from rewardd_types.limits import (
    MAX_CRITERIA,
    MAX_ITEMS,
    MAX_MESSAGES,
    MAX_RESPONSES,
    MAX_STEPS,
    MAX_TOKENS,
    Logprob,
    Name,
    Text,
    Texts,
    TokenIds,
    Weight,
)

FreeForm = Annotated[dict[str, Any], Meta(max_length=256)]


class Message(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One turn of a conversation, as chat templates read it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text
    name: Name | None = None
    tool_calls: Annotated[list[FreeForm], Meta(max_length=MAX_ITEMS)] | None = None
    tool_call_id: Name | None = None

    def __post_init__(self) -> None:
        check_freeform("tool_calls", self.tool_calls)


Messages = Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]


class Criterion(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of a rubric. A negative weight makes it a penalty."""

    text: Annotated[str, Meta(min_length=1, max_length=20_000)]
    weight: Weight = 1.0
    id: Name | None = None


class Response(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One answer to the prompt: exactly one of `content`, `messages`, `text`, `token_ids`, `steps`.

    `content` is the assistant's reply, rendered by the model's chat template; `messages` is an
    agentic trace that follows the prompt; `text` and `token_ids` are appended to the rendered
    prompt as they are; `steps` is a reply already cut into reasoning steps, and may stand beside
    `content`.
    """

    id: Name | None = None
    content: Text | None = None
    messages: Messages | None = None
    text: Text | None = None
    token_ids: TokenIds | None = None
    steps: Annotated[list[Text], Meta(max_length=MAX_STEPS)] | None = None
    finish_reason: Name | None = None
    logprobs: (
        Annotated[
            dict[Name, Annotated[list[Logprob], Meta(max_length=MAX_TOKENS)]],
            Meta(max_length=8),
        ]
        | None
    ) = None
    extra: FreeForm | None = None

    def __post_init__(self) -> None:
        forms = [self.content, self.messages, self.text, self.token_ids]
        given = sum(form is not None for form in forms)
        if given > 1 or (given == 0 and self.steps is None):
            raise ValueError(
                "a response has exactly one of `content`, `messages`, `text`, `token_ids`"
                " (or only `steps`)"
            )
        check_freeform("extra", self.extra)


class Group(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One prompt with its responses: the unit of work.

    The prompt has exactly one form. `messages` and `prompt` (one user turn) are rendered by the
    model's chat template; `text` and `token_ids` are rendered already and taken as they are.
    """

    responses: Annotated[list[Response], Meta(max_length=MAX_RESPONSES)]
    id: Name | None = None
    messages: Messages | None = None
    prompt: Text | None = None
    text: Text | None = None
    token_ids: TokenIds | None = None
    reference: Text | Texts | None = None
    rubric: Annotated[list[Criterion], Meta(min_length=1, max_length=MAX_CRITERIA)] | None = None
    principle: Text | None = None
    context: Text | Texts | None = None
    persona: Text | None = None
    tools: Annotated[list[FreeForm], Meta(max_length=MAX_ITEMS)] | None = None
    images: Annotated[list[Text], Meta(max_length=MAX_ITEMS)] | None = None
    follow_ups: Texts | None = None
    extra: FreeForm | None = None

    def __post_init__(self) -> None:
        forms = [self.messages, self.prompt, self.text, self.token_ids]
        if sum(form is not None for form in forms) != 1:
            raise ValueError("a group has exactly one of `messages`, `prompt`, `text`, `token_ids`")
        check_unique("response", [response.id for response in self.responses])
        check_freeform("tools", self.tools)
        check_freeform("extra", self.extra)


def check_unique(noun: str, ids: list[str | None]) -> None:
    """Raise ValueError when two items carry one id: the caller could not tell them apart."""
    given = [id_ for id_ in ids if id_ is not None]
    if len(set(given)) != len(given):
        twice = next(id_ for id_ in given if given.count(id_) > 1)
        raise ValueError(f"two items share the {noun} id {twice!r}")
