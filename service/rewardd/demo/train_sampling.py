"""Sampling the generator with plain transformers, many problems at once, for the training.

Rows of one batch have prompts of equal length, so nothing here needs an attention mask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from rewardd.demo import tokenizer
from rewardd.demo.data import Problem
from rewardd.demo.train_examples import encode, prompt_text

MAX_NEW_TOKENS = 48
ROWS = 512

_END = tokenizer.vocabulary()[tokenizer.END]


def load_generator(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


@torch.inference_mode()
def sample(
    model: Any, fast: Tokenizer, problems: Sequence[Problem], num_samples: int, seed: int | None
) -> list[list[str]]:
    """Return `num_samples` replies a problem, at temperature 1 or, without a seed, greedy."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    prompts = encode([prompt_text(problem) for problem in problems], fast)
    replies: list[list[str]] = [[] for _ in problems]
    for rows in _equal_lengths(prompts, num_samples):
        ids = torch.tensor([prompts[row] for row in rows])
        written = _continue(model, ids, generator)
        for row, text in zip(rows, fast.decode_batch(written.tolist()), strict=True):
            replies[row].append(text)
    return replies


def _equal_lengths(prompts: Sequence[list[int]], num_samples: int) -> Iterator[list[int]]:
    """Yield up to ROWS indices of prompts of one length, each index `num_samples` times in all."""
    buckets: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        buckets[len(prompt)] += [index] * num_samples
    for _, bucket in sorted(buckets.items()):
        yield from (bucket[at : at + ROWS] for at in range(0, len(bucket), ROWS))


def _continue(model: Any, ids: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the tokens [rows, new] written after `ids` [rows, length], END where a row is done."""
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    done = torch.zeros(len(ids), dtype=torch.bool)
    written = []
    for _ in range(MAX_NEW_TOKENS):
        logits = output.logits[:, -1]
        if generator is None:
            token = logits.argmax(-1)
        else:
            token = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        written.append(token.masked_fill(done, _END))
        done |= token == _END
        if done.all():
            break
        cache = output.past_key_values
        output = model(input_ids=written[-1][:, None], past_key_values=cache, use_cache=True)
    return torch.stack(written, 1)
