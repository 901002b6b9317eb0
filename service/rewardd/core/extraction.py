"""Finding the final answer in a reply. Linear in the length of the reply, whatever it holds."""

import re

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_ANSWER = re.compile(r"(?:####|\banswer(?:\*\*)?[ \t]*(?:is|:|=))[ \t:]*([^\n]+)", re.IGNORECASE)
_MAX_BARE_CHARS = 100
_DECORATION = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


def final_answer(text: str) -> str | None:
    """The answer a reply ends with, or None.

    The last closed `\\boxed{...}`; else what follows the last `answer is`, `answer:` or `####` on
    its line; else a reply that is a single short line. Nothing else: a search for any expression
    would let a reply pass that merely repeats the problem.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return _bare(boxed) or None
    anchored = _ANSWER.findall(text)
    if anchored:
        return _bare(anchored[-1]) or None
    line = text.strip()
    return _bare(line) or None if len(line) <= _MAX_BARE_CHARS and "\n" not in line else None


def last_boxed(text: str) -> str | None:
    """What the last closed `\\boxed{...}` holds; escaped braces do not count."""
    opened: list[int | None] = []
    found: str | None = None
    for token in _BRACES.finditer(text):
        word = token.group()
        if word == "}" and opened:
            start = opened.pop()
            found = text[start : token.start()] if start is not None else found
        elif word == "{" or word.startswith("\\boxed"):
            opened.append(token.end() if word != "{" else None)
    return found


def _bare(answer: str) -> str:
    """The answer without math delimiters, emphasis and the full stop of its sentence."""
    answer = answer.strip().rstrip(" .")
    # Each end for itself: emphasis may begin or end before the answer, as in `**Answer:** 5`.
    answer = answer.removeprefix("**").removesuffix("**").strip().rstrip(" .")
    for left, right in _DECORATION:
        if len(answer) > len(left) + len(right) and answer.startswith(left):
            answer = answer.removeprefix(left).removesuffix(right).strip()
    return answer.rstrip(".").strip()
