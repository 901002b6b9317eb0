"""From chains to tensors: what the models read, which tokens they learn and where they judge.

A reply is lines between separators. Generator and outcome model read it as the chat template writes
it: a newline between lines, `<end>` after the last. The process model reads it as the server feeds
it step by step: after each line, in place of its newline, the step tag, and nothing after the last.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

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


def right_chain(problem: Problem) -> Chain:
    return Chain(problem, tuple(data.solve(problem)))


def wrong_chain(problem: Problem, rng: random.Random) -> Chain:
    return Chain(problem, tuple(data.corrupt(problem, rng)))


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
        ordered = sorted(sequences(block, form, fast), key=lambda sequence: len(sequence[0]))
        cuts = [ordered[at : at + rows] for at in range(0, len(ordered), rows)]
        rng.shuffle(cuts)
        yield from map(stack, cuts)


_Sequence = tuple[list[int], list[int], list[int]]


def sequences(chains: Sequence[Chain], form: Form, fast: Tokenizer) -> list[_Sequence]:
    """Return ids, targets and labels of each chain."""
    prompts = encode([prompt_text(chain.problem) for chain in chains], fast)
    lines = iter(encode([line for chain in chains for line in chain.lines], fast))
    return [
        _sequence(chain, prompt, list(islice(lines, len(chain.lines))), form)
        for chain, prompt in zip(chains, prompts, strict=True)
    ]


def _sequence(chain: Chain, prompt: list[int], lines: list[list[int]], form: Form) -> _Sequence:
    wrong = data.first_error(chain.problem, chain.lines)
    right = data.extract_answer("\n".join(chain.lines)) == chain.problem.answer
    first = len(lines) if wrong is None else wrong
    ids, learnt, labels = list(prompt), [False] * len(prompt), [IGNORE] * len(prompt)
    for index, line in enumerate(lines):
        last = index == len(lines) - 1
        ids += [*line, separator(form, last)]
        learnt += [index < first] * (len(line) + 1)
        labels += [IGNORE] * len(line)
        # `<end>` answers for the outcome; every other separator for the steps up to it.
        labels.append(int(right if form == "chat" and last else index < first))
    targets = [id if keep else IGNORE for id, keep in zip(ids[1:], learnt[1:], strict=True)]
    return ids, [*targets, IGNORE], labels


def separator(form: Form, last: bool) -> int:
    """Return the token after a line."""
    if form == "steps":
        return _IDS[tokenizer.STEP_TAG]
    return _IDS[tokenizer.END if last else NEWLINE]


def stack(rows: Sequence[_Sequence]) -> Batch:
    length = max(len(ids) for ids, _, _ in rows)
    ids, targets, labels = (
        torch.tensor([row + [fill] * (length - len(row)) for row in column])
        for column, fill in zip(zip(*rows, strict=True), (0, IGNORE, IGNORE), strict=True)
    )
    return Batch(ids, targets, labels)
