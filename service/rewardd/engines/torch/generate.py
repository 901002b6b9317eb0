"""Sampling with a key-value cache: prompts once, one row a sample, one random stream a row.

Each row's uniforms are drawn from its own seed before the loop, so that equal seeds give equal
tokens whatever else is in the batch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from rewardd.engines.torch.forward import use


@dataclass(frozen=True, slots=True)
class Sampling:
    """One continuation to sample. `temperature` 0 is greedy."""

    token_ids: tuple[int, ...]
    seed: int
    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ()


@dataclass(slots=True)
class Sample:
    """What was sampled: tokens (the end token included) and their log-probabilities at T = 1."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False
    finite: bool = True


class Generator:
    """Samples from a causal LM. `ends` are the ids that end a continuation."""

    def __init__(self, lm: Any, ends: Iterable[int], decode: Callable[[list[int]], str]) -> None:
        self._lm = lm
        self._ends = set(ends)
        self._decode = decode

    @torch.inference_mode()
    def __call__(self, wanted: Sequence[Sampling]) -> list[Sample]:
        """One Sample a request, in order."""
        use(self._lm, "eager")
        samples = [Sample() for _ in wanted]
        uniforms = [_uniforms(one) for one in wanted]
        rows = list(range(len(wanted)))
        state = _Prefilled(self._lm, [one.token_ids for one in wanted])
        for step in range(max(one.max_tokens for one in wanted)):
            logits = state.logits.float()
            draws = torch.tensor([uniforms[row][step] for row in rows], device=logits.device)
            chosen, logprobs = _draw(logits, draws, [wanted[row] for row in rows])
            finite = torch.isfinite(logits).all(dim=-1).tolist()
            for row, token, logprob, good in zip(rows, chosen, logprobs, finite, strict=True):
                self._take(wanted[row], samples[row], token, logprob, good)
            keep = [
                place
                for place, row in enumerate(rows)
                if not samples[row].finished and step + 1 < wanted[row].max_tokens
            ]
            if not keep:
                break
            rows = [rows[place] for place in keep]
            state.advance(keep, [samples[row].token_ids[-1] for row in rows])
        return samples

    def _take(
        self, wanted: Sampling, sample: Sample, token: int, logprob: float, finite: bool
    ) -> None:
        sample.token_ids.append(token)
        sample.logprobs.append(logprob)
        sample.finite = finite
        sample.finished = token in self._ends or not finite or self._stopped(wanted, sample)

    def _stopped(self, wanted: Sampling, sample: Sample) -> bool:
        if not wanted.stop:
            return False
        longest = max(len(stop.encode()) for stop in wanted.stop)
        tail = self._decode(sample.token_ids[-(longest + 8) :])  # a token is a byte or more
        return any(stop in tail for stop in wanted.stop)


class _Prefilled:
    """The cache of all rows and the logits of their next token."""

    def __init__(self, lm: Any, prompts: Sequence[tuple[int, ...]]) -> None:
        self._lm = lm
        unique = list(dict.fromkeys(prompts))
        width = max(map(len, unique))
        ids = np.zeros((len(unique), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, prompt in enumerate(unique):
            ids[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = 1
        device = next(lm.parameters()).device
        self._cache: Any = DynamicCache(config=lm.config)
        self._mask = torch.from_numpy(mask).to(device)
        self._next = self._mask.sum(dim=1)
        self.logits = self._forward(torch.from_numpy(ids).to(device), _positions(self._mask))
        self._select([unique.index(prompt) for prompt in prompts])

    def advance(self, keep: list[int], tokens: list[int]) -> None:
        """Keep the rows at `keep`, and go on with one more token each."""
        if len(keep) < len(self._next):
            self._select(keep)
        ids = torch.tensor(tokens, device=self._mask.device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        self.logits = self._forward(ids, self._next[:, None])
        self._next = self._next + 1

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        logits: Tensor = self._lm(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]

    def _select(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask, self._next = self._mask[index], self._next[index]
        self.logits = self.logits[index]


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _uniforms(wanted: Sampling) -> list[float]:
    generator = torch.Generator().manual_seed(wanted.seed)
    return torch.rand(wanted.max_tokens, generator=generator, dtype=torch.float64).tolist()


def _draw(
    logits: Tensor, uniforms: Tensor, wanted: Sequence[Sampling]
) -> tuple[list[int], list[float]]:
    """Choose one token a row by inverting the cumulative distribution at the row's uniform."""
    temperature = torch.tensor([one.temperature for one in wanted], device=logits.device)
    greedy = temperature == 0
    shifted = logits - logits.amax(dim=-1, keepdim=True)  # or a tiny temperature overflows to ties
    scaled = shifted / temperature.masked_fill(greedy, 1.0)[:, None]
    probabilities, order = torch.softmax(scaled.nan_to_num(), dim=-1).sort(dim=-1, descending=True)
    top_p = torch.tensor([one.top_p for one in wanted], device=logits.device)
    cumulative = probabilities.double().cumsum(dim=-1)
    nucleus = (cumulative - probabilities < top_p[:, None]).sum(dim=-1, keepdim=True)
    total = cumulative.gather(1, nucleus - 1)
    place = torch.searchsorted(cumulative, uniforms.double()[:, None] * total, right=True)
    place = place.clamp(max=nucleus - 1).masked_fill(greedy[:, None], 0)
    chosen = order.gather(1, place)
    logprobs = torch.log_softmax(logits, dim=-1).gather(1, chosen)
    return chosen[:, 0].tolist(), logprobs[:, 0].tolist()
