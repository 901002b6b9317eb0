"""Math-Verify behind one function, with its pitfalls closed.

- It is given the extracted answer only, inside one box, and reads LaTeX only: no search through the
  reply for anything that matches, no option letters, and no way into sympy's `parse_expr`, which
  evaluates Python.
- Its own time limits (SIGALRM, raising a BaseException) are off: the server kills the child, which
  also stops a big-integer operation in C that no signal interrupts.
- `\\frac12` is valid LaTeX and common in references, so `malformed_operators` is on.
- The reference comes first: `verify` is not symmetric.
- A comparison that raises is an error here, not a wrong answer.
"""

import functools
import logging
from typing import Any

from latex2sympy2_extended import NormalizationConfig  # type: ignore[import-untyped]
from math_verify import LatexExtractionConfig, parse, verify

MAX_ANSWER_CHARS = 50_000

logging.getLogger("math_verify").setLevel(logging.ERROR)

_READ_BOX = LatexExtractionConfig(
    boxed_match_priority=0,
    try_extract_without_anchor=False,
    normalization_config=NormalizationConfig(
        basic_latex=True,
        units=True,
        malformed_operators=True,
        nits=True,
        boxed="all",
        equations=False,
    ),
)


def run(gold: list[str], answer: str | None) -> dict[str, Any]:
    """Whether `answer` equals any of `gold`; `bad_gold` is the index of one that is no mathematics.

    `parsed` is false when there is no answer, or none that can be read as mathematics.
    """
    golds = [_parse(text) for text in gold]
    if () in golds:
        return {"right": False, "parsed": False, "bad_gold": golds.index(())}
    target = _parse(answer) if answer is not None else ()
    right = any(_equal(reference, target) for reference in golds) if target else False
    return {"right": right, "parsed": bool(target), "bad_gold": None}


@functools.lru_cache(maxsize=1024)
def _parse(text: str) -> tuple[Any, ...]:
    """What `text` means; empty when it means nothing."""
    if len(text) > MAX_ANSWER_CHARS:
        return ()
    found = parse(
        rf"\boxed{{{text}}}",
        extraction_config=[_READ_BOX],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return tuple(found)


def _equal(gold: tuple[Any, ...], target: tuple[Any, ...]) -> bool:
    return bool(verify([*gold], [*target], timeout_seconds=None, raise_on_error=True))
