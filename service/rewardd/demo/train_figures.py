"""Sampling and scoring with plain transformers: the reference path of the demo's figures.

Rows of one batch have prompts of equal length, so nothing here needs an attention mask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Qwen2Model

from rewardd.demo import data, evaluate, tokenizer, train_models
from rewardd.demo.data import Problem
from rewardd.demo.evaluate import Sampled
from rewardd.demo.train_examples import (
    IGNORE,
    Batch,
    Chain,
    Form,
    encode,
    prompt_text,
    sequences,
    stack,
)

NUM_SAMPLES = 16
MAX_NEW_TOKENS = 48
ROWS = 512

_END = tokenizer.vocabulary()[tokenizer.END]


def measure(directory: Path, num_problems: int, seed: int) -> dict[str, float]:
    """Return the figures of the saved models on held-out problems."""
    fast = Tokenizer.from_file(str(directory / "generator" / "tokenizer.json"))
    stream = data.problems(seed, "held_out")
    problems = list(dict.fromkeys(next(stream) for _ in range(2 * num_problems)))[:num_problems]
    writer = load_generator(directory / "generator")
    replies = sample(writer, fast, problems, NUM_SAMPLES, seed)
    greedy = sample(writer, fast, problems, 1, None)
    chains = [
        Chain(problem, tuple(text.split("\n")))
        for problem, texts in zip(problems, replies, strict=True)
        for text in texts
    ]
    outcomes = outcome_rewards(directory / "outcome", chains, fast)
    steps = step_rewards(directory / "process", chains, fast)
    samples = []
    for at, (problem, texts) in enumerate(zip(problems, replies, strict=True)):
        own = slice(at * NUM_SAMPLES, (at + 1) * NUM_SAMPLES)
        samples.append(Sampled(problem, texts, greedy[at][0], outcomes[own], steps[own]))
    return evaluate.figures(samples)


# Sampling


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


# Scoring


@torch.inference_mode()
def outcome_rewards(directory: Path, chains: Sequence[Chain], fast: Tokenizer) -> list[float]:
    """Return the raw logit of each chain, read at the last token of the rendered chat."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)
    rewards: dict[int, float] = {}
    for indices, batch in _judged_batches(chains, "chat", fast):
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
        # `<end>` closes the prompt too: the reward is read at the last judged position.
        last = (batch.labels != IGNORE).long().cumsum(1).argmax(1)
        logits = model.score(hidden[torch.arange(len(last)), last])[:, 0]
        rewards.update(zip(indices, logits.tolist(), strict=True))
    return [rewards[index] for index in range(len(chains))]


@torch.inference_mode()
def step_rewards(directory: Path, chains: Sequence[Chain], fast: Tokenizer) -> list[list[float]]:
    """Return the probability of class 1 at each step tag of each chain."""
    body: Any = Qwen2Model.from_pretrained(directory, dtype=torch.float32)
    score = _process_score(directory)
    rewards: dict[int, list[float]] = {}
    for indices, batch in _judged_batches(chains, "steps", fast):
        hidden = body(input_ids=batch.ids, use_cache=False).last_hidden_state
        judged = batch.labels != IGNORE
        right = score(hidden[judged]).softmax(-1)[:, 1]
        by_row = right.split(judged.sum(1).tolist())
        rewards.update(zip(indices, (row.tolist() for row in by_row), strict=True))
    return [rewards[index] for index in range(len(chains))]


def _process_score(directory: Path) -> torch.nn.Module:
    """Read the head, which transformers does not know."""
    weights = load_file(directory / "model.safetensors")
    head = {name: tensor.float() for name, tensor in weights.items() if name.startswith("score.")}
    score = train_models.process_head()
    score.load_state_dict({name.removeprefix("score."): head[name] for name in head})
    return score


def _judged_batches(
    chains: Sequence[Chain], form: Form, fast: Tokenizer
) -> Iterator[tuple[list[int], Batch]]:
    """Yield every chain once, in batches of like length with the chains' indices."""
    order = sorted(range(len(chains)), key=lambda index: len("".join(chains[index].lines)))
    for at in range(0, len(order), ROWS):
        indices = order[at : at + ROWS]
        yield indices, stack(sequences([chains[index] for index in indices], form, fast))
