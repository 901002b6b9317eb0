"""May this model be packed? Asked once at load, and answered by trying.

A family is on the list because its packed form was found exact against one-by-one eager attention
(`python -m loadtest parity`). The trial at load guards against what the list cannot know: a
changed transformers, an unusual config, a layer that mixes tokens outside its attention.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from rewardd.engines.torch.forward import Forward, PackedForward, PaddedForward, Read
from rewardd.engines.torch.plan import Tokens

PACKABLE = {
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "llama",
    "mistral",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
}
_LENGTH_BOUND_ROPE = {"dynamic", "longrope"}  # their angles depend on the longest of the batch
_FP32_LIMIT = 1_000_000_000  # parameters; larger models are tried in their own dtype
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True, slots=True)
class Choice:
    """The forward a model gets; `reason` says why it is not the packed one."""

    forward: Forward
    packed: bool
    reason: str | None = None


def choose_forward(body: Any, causal: bool, max_batch_tokens: int, packing: str) -> Choice:
    """The packed forward if the model may be packed, else the padded one with the reason."""
    if not causal:
        reason: str | None = "an encoder's tokens depend on all others: no prefix can be shared"
    else:
        reason = "packing is off" if packing == "off" else _objection(body)
    if reason is None:
        return Choice(PackedForward(body, body.config.num_hidden_layers), True)
    rows = 1 if _length_bound_rope(body.config) else 64
    return Choice(PaddedForward(body, max_batch_tokens, rows), False, reason)


def _objection(body: Any) -> str | None:
    family = body.config.model_type
    if family not in PACKABLE:
        return f"`{family}` is not on the list of families that can be packed"
    rope = _length_bound_rope(body.config)
    if rope:
        return f"its rope type `{rope}` depends on the length of the batch"
    try:
        return _trial(body)
    except Exception as error:
        return f"the trial at load failed: {error}"


def _length_bound_rope(config: Any) -> str | None:
    """The rope type, if its angles depend on the batch; some configs state one a layer type."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    tables = [rope, *(table for table in rope.values() if isinstance(table, dict))]
    types = {table.get("rope_type", table.get("type")) for table in tables}
    return next(iter(types & _LENGTH_BOUND_ROPE), None)


def _trial(body: Any) -> str | None:
    """Packed against one by one, in fp32 where the model is small enough to be cast and back."""
    dtype = next(body.parameters()).dtype
    if sum(p.numel() for p in body.parameters()) <= _FP32_LIMIT:
        dtype = torch.float32
        with _in_fp32(body):
            worst = _difference(body)
    else:
        worst = _difference(body)
    return None if worst <= _TOLERANCE[dtype] else f"packed and single scores differ by {worst:.2g}"


@contextmanager
def _in_fp32(body: nn.Module) -> Iterator[None]:
    """Cast the parameters, and put the very same tensors back.

    Not `body.to(dtype)`: it would round the buffers too, and rotary frequencies in half precision
    turn far positions by the wrong angle.
    """
    kept = [(parameter, parameter.data) for parameter in body.parameters()]
    try:
        for parameter, data in kept:
            parameter.data = data.float()
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def _difference(body: nn.Module) -> float:
    """The largest difference of any hidden state, relative to the states' spread."""
    reads = [Read(tokens, np.arange(len(tokens))) for tokens in _sequences(body)]
    packed = PackedForward(body, _config(body).num_hidden_layers)(reads)
    single = PaddedForward(body, max_rows=1)(reads)
    spread = torch.cat([states.hidden for states in single]).float().std().item() or 1.0
    gaps = [(a.hidden - b.hidden).abs().max().item() for a, b in zip(packed, single, strict=True)]
    return float(max(gaps) / spread) if all(np.isfinite(gaps)) else float("inf")


def _sequences(body: nn.Module) -> list[Tokens]:
    """Shared prompts, a response that is a prefix of another, lengths beyond a short window."""
    config, random = _config(body), np.random.default_rng(0)
    window = getattr(config, "sliding_window", None) or 16
    length = min(2 * min(window, 64) + 16, config.max_position_embeddings // 2)
    prompts = [random.integers(0, config.vocab_size, size) for size in (length, length // 2)]
    cuts = [0, 3, 5, length // 2, length]
    tails = [random.integers(0, config.vocab_size, b - a) for a, b in pairwise(cuts)]
    replies = [np.concatenate(tails[:1]), np.concatenate(tails[:2]), tails[2], tails[3]]
    both = [np.concatenate([prompt, reply]) for prompt in prompts for reply in replies]
    return [Tokens(ids.tolist()) for ids in [*both, prompts[0]]]


def _config(body: Any) -> Any:
    return body.config
