"""Attention over a tree plan, registered with transformers as `rewardd_tree`.

Linear layers see one flat row of unique tokens; here each segment attends to its ancestors and,
causally, to itself. The windows, soft caps and sinks of the model families are honoured, since
transformers passes them as arguments. Unknown tensor arguments are refused: a model that needs one
cannot be packed.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, softmax
from transformers import AttentionInterface

from rewardd.engines.torch.plan import Plan, Segment

NAME = "rewardd_tree"
_IGNORED = {"position_ids", "cache_position"}  # the plan holds the positions already


class Unpackable(Exception):
    """The model does something the tree attention does not know."""


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    plan: Plan | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """[1, heads, tokens, dim] queries against the trie; returns [1, tokens, heads, dim].

    Raises Unpackable for a mask, or any tensor argument, that the plan does not account for.
    """
    _refuse(plan, attention_mask, others)
    assert plan is not None
    plan.calls += 1
    groups = query.shape[1] // key.shape[1]
    keys, values = _spread(key, groups), _spread(value, groups)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = torch.empty(
        (query.shape[0], query.shape[2], query.shape[1], value.shape[-1]),
        dtype=query.dtype,
        device=query.device,
    )
    for segment in plan.segments:
        here = slice(segment.start, segment.start + segment.length)
        seen_keys, seen_values = _visible(segment, keys), _visible(segment, values)
        mask = _mask(plan, segment, sliding_window, query.device)
        attended = _attend(query[:, :, here], seen_keys, seen_values, mask, scale, softcap, s_aux)
        out[:, here] = attended.transpose(1, 2)
    return out, None


def _refuse(plan: Plan | None, mask: Tensor | None, others: dict[str, Any]) -> None:
    if plan is None:
        raise Unpackable("its attention is called without the plan")
    if mask is not None:
        raise Unpackable("it builds an attention mask of its own")
    unknown = [k for k, v in others.items() if isinstance(v, Tensor) and k not in _IGNORED]
    if unknown:
        raise Unpackable(f"its attention takes `{unknown[0]}`")


def _spread(states: Tensor, groups: int) -> Tensor:
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


def _visible(segment: Segment, states: Tensor) -> Tensor:
    """Keys or values of a segment's ancestors and its own, [1, heads, depth + length, dim]."""
    path = segment.path()
    if len(path) == 1:
        return states[:, :, segment.start : segment.start + segment.length]
    return torch.cat([states[:, :, s.start : s.start + s.length] for s in path], dim=2)


def _mask(plan: Plan, segment: Segment, window: int | None, device: torch.device) -> Tensor | None:
    """What each token may see ([length, depth + length], bool); None when that is everything."""
    end = segment.depth + segment.length
    if segment.length == 1 and (window is None or end <= window):
        return None
    key = (segment.start, window or 0)
    if key not in plan.masks:
        behind = torch.arange(segment.depth, end, device=device)[:, None] - torch.arange(
            end, device=device
        )
        mask = behind >= 0
        plan.masks[key] = mask if window is None else mask & (behind < window)
    cached = plan.masks[key]
    assert isinstance(cached, Tensor)
    return cached


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    if softcap is None and sinks is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = (query @ key.transpose(2, 3)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is None:
        return softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value
    return _softmax_with_sinks(scores, sinks).to(value.dtype) @ value


def _softmax_with_sinks(scores: Tensor, sinks: Tensor) -> Tensor:
    """A sink is a learned logit a head may attend to instead of any token (GPT-OSS)."""
    sink = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    both = torch.cat([scores, sink.to(scores.dtype)], dim=-1)
    return softmax(both, dim=-1, dtype=torch.float32)[..., :-1]


AttentionInterface.register(NAME, tree_attention)
