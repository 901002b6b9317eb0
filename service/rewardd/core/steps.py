"""Cutting a reply into reasoning steps, and knowing where each step stands."""

from collections.abc import Sequence

from msgspec import Struct

from rewardd.errors import InvalidRequest


class Step(Struct, frozen=True):
    """A step and its place: `content[start:end] == text`; null when there is no content."""

    text: str
    start: int | None = None
    end: int | None = None


def split_steps(content: str, separator: str) -> list[Step]:
    """The pieces of `content` between separators; a blank piece is no step.

    A blank line would otherwise get a step tag of its own and a score that means nothing.
    """
    steps, start = [], 0
    for piece in content.split(separator):
        if piece.strip():
            steps.append(Step(piece, start, start + len(piece)))
        start += len(piece) + len(separator)
    return steps


def locate_steps(texts: Sequence[str], content: str | None) -> list[Step]:
    """The caller's own steps, found in their content one after the other."""
    if content is None:
        return [Step(text) for text in texts]
    steps, cursor = [], 0
    for index, text in enumerate(texts):
        start = content.find(text, cursor)
        if start < 0:
            raise InvalidRequest(f"step {index} does not stand in `content`", path="$.steps")
        cursor = start + len(text)
        steps.append(Step(text, start, cursor))
    return steps
