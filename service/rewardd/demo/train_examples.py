"""From chains to tensors: what the models read, which tokens they learn and where they judge.

A reply is lines between separators. Generator and outcome model read it as the chat template writes
it: a newline between lines, `<end>` after the last. The process model reads it as the server feeds
it step by step: after each line, in place of its newline, the step tag, and nothing after the last.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Literal, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rewardd.demo import data, tokenizer
from rewardd.demo.data import Problem

Form = Literal["chat", "steps"]

IGNORE = -100
NEWLINE = "\u010a"

_IDS = tokenizer.vocabulary()


@dataclass(frozen=True, slots=True)
class Chain:
    """A reply to a problem, right or wrong."""

    problem: Problem
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors [rows, length]. Rows are padded on the right, where causal attention never looks."""

    ids: Tensor
    targets: Tensor
    """The next token, where it is to be learnt; else IGNORE."""
    labels: Tensor
    """1 right or 0 wrong, where the model judges; else IGNORE."""
    tokens: Tensor
    """1 where a token could be expected there, 0 where it is the first of its line that could not,
    else IGNORE (`data.expected`)."""


def right_chain(problem: Problem) -> Chain:
    return Chain(problem, tuple(data.solve(problem)))


def prompt_text(problem: Problem) -> str:
    """Return the rendered prompt, generation prompt included."""
    return f"{tokenizer.USER}{problem.text}{tokenizer.END}{tokenizer.ASSISTANT}"


def encode(texts: Sequence[str], fast: Tokenizer) -> list[list[int]]:
    return [encoding.ids for encoding in fast.encode_batch(list(texts), add_special_tokens=False)]


def batches(
    chains: Iterable[Chain], form: Form, fast: Tokenizer, rows: int, window: int = 16
) -> Iterator[Batch]:
    """Yield batches of chains of like length: sorts `window` batches at a time to save padding."""
    stream = iter(chains)
    rng = random.Random(0)
    while block := list(islice(stream, rows * window)):
        ordered = sorted(sequences(block, form, fast), key=lambda row: len(row.ids))
        cuts = [ordered[at : at + rows] for at in range(0, len(ordered), rows)]
        rng.shuffle(cuts)
        yield from map(stack, cuts)


class Row(NamedTuple):
    """One row of a batch: the fields of `Batch` for one chain."""

    ids: list[int]
    targets: list[int]
    labels: list[int]
    tokens: list[int]


def sequences(chains: Sequence[Chain], form: Form, fast: Tokenizer) -> list[Row]:
    """Return a row for each chain."""
    prompts = encode([prompt_text(chain.problem) for chain in chains], fast)
    expected = [data.expected(chain.problem, chain.lines) for chain in chains]
    lines = iter(encode([line for chain in chains for line in chain.lines], fast))
    others = iter(encode([line for chain in expected for at in chain for line in at], fast))
    rows = []
    for chain, prompt, wanted in zip(chains, prompts, expected, strict=True):
        own = list(islice(lines, len(chain.lines)))
        could_be = [list(islice(others, len(at))) for at in wanted]
        rows.append(_row(chain, prompt, own, could_be, form))
    return rows


def _row(
    chain: Chain,
    prompt: list[int],
    lines: list[list[int]],
    expected: list[list[list[int]]],
    form: Form,
) -> Row:
    """Join prompt and tokenised lines; `expected` are the tokenised lines that would do."""
    wrong = data.first_error(chain.problem, chain.lines)
    answered = data.extract_answer("\n".join(chain.lines)) == chain.problem.answer
    first = len(lines) if wrong is None else wrong
    ids = list(prompt)
    labels, tokens = [IGNORE] * len(prompt), [IGNORE] * len(prompt)
    for index, (line, could_be) in enumerate(zip(lines, expected, strict=True)):
        last = index == len(lines) - 1
        ids += [*line, separator(form, last)]
        # `<end>` answers for the outcome; every other separator for the steps up to it.
        verdict = answered if form == "chat" and last else index < first
        labels += [*[IGNORE] * len(line), int(verdict)]
        tokens += _token_labels(line, could_be)
    written = [id if token == 1 else IGNORE for id, token in zip(ids, tokens, strict=True)]
    return Row(ids, [*written[1:], IGNORE], labels, tokens)


def _token_labels(line: list[int], expected: list[list[int]]) -> list[int]:
    """Return a label for each token of a line and its separator (fields of `Batch`)."""
    if not expected:
        return [IGNORE] * (len(line) + 1)
    right = max(_num_common(other, line) for other in expected)
    if right == len(line):
        return [1] * (right + 1)
    # Only a wrong result can be gone along with; it stands last, and its separator is right.
    rest = [IGNORE] * (len(line) - right - 1)
    return [*[1] * right, 0, *rest, IGNORE if rest else 1]


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    return sum(takewhile(bool, (a == b for a, b in zip(one, other, strict=False))))


def separator(form: Form, last: bool) -> int:
    """Return the token after a line."""
    if form == "steps":
        return _IDS[tokenizer.STEP_TAG]
    return _IDS[tokenizer.END if last else NEWLINE]


def stack(rows: Sequence[Row]) -> Batch:
    """Pad rows to one length."""
    length = max(len(row.ids) for row in rows)
    fills = (_IDS[tokenizer.PAD], IGNORE, IGNORE, IGNORE)
    return Batch(
        *(
            torch.tensor([row + [fill] * (length - len(row)) for row in column])
            for column, fill in zip(zip(*rows, strict=True), fills, strict=True)
        )
    )
