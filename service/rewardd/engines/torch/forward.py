"""Hidden states of token sequences: tree-packed where the model allows it, else padded.

Both forms give the same numbers. The packed form computes each unique token once; the padded form
is the oracle it is checked against at load, and the fallback of models that cannot be packed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rewardd.engines.torch import attention
from rewardd.engines.torch.plan import Ids, Tokens, build_plan


@dataclass(frozen=True, slots=True)
class Read:
    """A sequence and the token positions whose hidden states are wanted."""

    tokens: Tokens
    positions: Ids


@dataclass(frozen=True, slots=True)
class States:
    """Hidden states [num positions, hidden], and the tokens computed for this sequence alone."""

    hidden: Tensor
    computed: int


class Forward(Protocol):
    def __call__(self, reads: Sequence[Read]) -> list[States]:
        """One States a read, in order."""


class PackedForward:
    """One flat row of unique tokens through the body, with tree attention."""

    def __init__(self, body: nn.Module, num_layers: int) -> None:
        self._body = body
        self._num_layers = num_layers

    @torch.inference_mode()
    def __call__(self, reads: Sequence[Read]) -> list[States]:
        plan = build_plan([read.tokens for read in reads])
        device = next(self._body.parameters()).device
        use(self._body, attention.NAME)
        hidden = self._body(
            input_ids=torch.from_numpy(plan.token_ids)[None].to(device),
            position_ids=torch.from_numpy(plan.position_ids)[None].to(device),
            attention_mask=None,
            use_cache=False,
            plan=plan,
        ).last_hidden_state[0]
        if plan.calls != self._num_layers:
            raise attention.Unpackable(
                f"its attention was called {plan.calls} times for {self._num_layers} layers"
            )
        return [
            States(hidden[torch.from_numpy(plan.rows(i, read.positions)).to(device)], computed)
            for i, (read, computed) in enumerate(zip(reads, plan.computed, strict=True))
        ]


class PaddedForward:
    """Right-padded batches through eager attention; equal sequences are computed once.

    `max_rows` 1 gives the reference form: every sequence on its own. Positions are absolute, so
    the pad token never matters (no position is found by it).
    """

    def __init__(self, body: nn.Module, max_tokens: int = 0, max_rows: int = 64) -> None:
        self._body = body
        self._max_tokens = max_tokens
        self._max_rows = max_rows

    @torch.inference_mode()
    def __call__(self, reads: Sequence[Read]) -> list[States]:
        use(self._body, "eager")
        equal: dict[bytes, list[int]] = {}
        for index, read in enumerate(reads):
            equal.setdefault(read.tokens.key, []).append(index)
        ordered = sorted([reads[same[0]].tokens for same in equal.values()], key=len)
        states: dict[int, States] = {}
        for batch in self._batches(ordered):
            for tokens, hidden in zip(batch, self._hidden(batch), strict=True):
                for place, index in enumerate(equal[tokens.key]):
                    rows = torch.from_numpy(reads[index].positions).to(self._device)
                    states[index] = States(hidden[rows], len(tokens) if place == 0 else 0)
        return [states[index] for index in range(len(reads))]

    @property
    def _device(self) -> torch.device:
        return next(self._body.parameters()).device

    def _batches(self, ordered: list[Tokens]) -> list[list[Tokens]]:
        batches: list[list[Tokens]] = []
        for tokens in ordered:
            rows = len(batches[-1]) + 1 if batches else 0
            fits = rows <= self._max_rows and rows * len(tokens) <= self._max_tokens
            if batches and fits:
                batches[-1].append(tokens)
            else:
                batches.append([tokens])
        return batches

    def _hidden(self, batch: list[Tokens]) -> list[Tensor]:
        width = max(map(len, batch))
        ids = np.zeros((len(batch), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens.ids
            mask[row, : len(tokens)] = 1
        hidden: Tensor = self._body(
            input_ids=torch.from_numpy(ids).to(self._device),
            attention_mask=torch.from_numpy(mask).to(self._device),
            use_cache=False,
        ).last_hidden_state
        return list(hidden)


def use(body: Any, implementation: str) -> None:
    """Switch the attention of a body; transformers looks it up in the config at every call."""
    if body.config._attn_implementation != implementation:
        body.set_attn_implementation(implementation)
