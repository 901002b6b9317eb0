"""The demo's judges with plain transformers: what their served rewards are held against.

Rows of one batch are padded at the end, where causal attention never looks: no mask is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, Qwen2Model

from rewardd.demo import train_models
from rewardd.demo.train_examples import IGNORE, Batch, Chain, Form, sequences, stack

ROWS = 512


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
