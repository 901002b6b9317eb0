"""From hidden states to the numbers a call asked for. Heads and softmax run in fp32 always."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 1024  # vocabulary-wide logits exist for this many positions at a time


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Of `targets` at their positions [n], and the mean over the vocabulary at each [n]."""

    chosen: list[float]
    over_vocabulary: list[float]


def head_rows(
    head: Callable[[Tensor], Tensor], hidden: Sequence[Tensor]
) -> list[list[list[float]]]:
    """Raw logits of the head at every position of every sequence, in one pass."""
    logits = head(torch.cat(list(hidden)))
    return [rows.tolist() for rows in torch.split(logits, [len(states) for states in hidden])]


def token_logprobs(
    lm_logits: Callable[[Tensor], Tensor], hidden: Tensor, targets: Sequence[int]
) -> TokenLogprobs:
    """Log-probability of `targets[t]` given the hidden state [n, d] at t."""
    chosen: list[float] = []
    means: list[float] = []
    ids = torch.tensor(list(targets), dtype=torch.int64, device=hidden.device)
    for states, wanted in zip(torch.split(hidden, _ROWS), torch.split(ids, _ROWS), strict=True):
        logprobs = torch.log_softmax(lm_logits(states), dim=-1)
        chosen += logprobs.gather(1, wanted[:, None])[:, 0].tolist()
        means += logprobs.mean(dim=-1).tolist()
    return TokenLogprobs(chosen, means)


def label_logprobs(
    lm_logits: Callable[[Tensor], Tensor], hidden: Tensor, labels: Sequence[int]
) -> list[float]:
    """Log-probability of each label id as the next token after the state [d]."""
    logprobs = torch.log_softmax(lm_logits(hidden[None])[0], dim=-1)
    return [float(logprobs[label]) for label in labels]
