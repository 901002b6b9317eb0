"""From what a caller sends to what a model reads: pure, and the same for every method."""

from rewardd.core.calls import Input, Prompt, Reply
from rewardd.errors import InvalidRequest
from rewardd_types import Group, Message, Response


def prompt_of(group: Group) -> Prompt:
    """The group's prompt; `prompt` is sugar for one user turn."""
    if group.prompt is not None:
        return Prompt(messages=[Message(role="user", content=group.prompt)])
    return Prompt(messages=group.messages, text=group.text, token_ids=group.token_ids)


def input_of(group: Group, response: Response) -> Input:
    """Prompt and response as one sequence."""
    reply = Reply(
        content=response.content,
        messages=response.messages,
        text=response.text,
        token_ids=response.token_ids,
    )
    if reply == Reply():
        reply = Reply(content="\n".join(response.steps or []))
    return Input(prompt_of(group), reply)


def prompt_text(group: Group) -> str:
    """The prompt as plain words, for methods that quote it."""
    if group.prompt is not None:
        return group.prompt
    if group.messages is not None:
        return "\n\n".join(message.content for message in group.messages)
    if group.text is not None:
        return group.text
    raise InvalidRequest("this method needs the prompt as words, not as token ids")


def response_text(response: Response) -> str:
    """The response as plain words, for methods that read it with code."""
    if response.content is not None:
        return response.content
    if response.text is not None:
        return response.text
    if response.messages is not None:
        return next((m.content for m in reversed(response.messages) if m.role == "assistant"), "")
    if response.steps is not None:
        return "\n".join(response.steps)
    raise InvalidRequest("this method needs the response as words, not as token ids")
