"""Tree attention by itself: against plain causal attention, and what it refuses to guess."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rewardd.engines.torch.attention import Unpackable, tree_attention
from rewardd.engines.torch.plan import Plan, Tokens, build_plan

SEQUENCES = [[1, 2, 3, 4, 5, 6], [1, 2, 3], [1, 2, 3, 9, 9], [1, 2, 3, 4, 5, 6], [7, 8]]
HEADS, KEY_HEADS, DIM = 4, 2, 8


@pytest.fixture
def plan() -> Plan:
    return build_plan([Tokens(ids) for ids in SEQUENCES])


def states(plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values that depend on nothing but their place in the layout."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, len(plan.token_ids), DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    query, key, value = (torch.randn(shape, generator=generator) for shape in shapes)
    return query, key, value


def attend(plan: Plan | None, states: tuple[Tensor, Tensor, Tensor], **options: object) -> Tensor:
    out, weights = tree_attention(nn.Identity(), *states, None, plan=plan, **options)  # type: ignore[arg-type]
    assert weights is None
    return out


def plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    cap: float | None,
    sinks: Tensor | None,
    scale: float,
) -> Tensor:
    """One sequence, [heads, length, dim], written out: scores, cap, mask, sink, softmax."""
    key, value = key.repeat_interleave(2, dim=0), value.repeat_interleave(2, dim=0)
    scores = query @ key.transpose(1, 2) * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    length = query.shape[1]
    for q in range(length):
        for k in range(length):
            if k > q or (window is not None and q - k >= window):
                scores[:, q, k] = -torch.inf
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(-1, length, 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., :length]
    return weights @ value


@pytest.mark.parametrize("window", [None, 1, 2, 4, 100])
@pytest.mark.parametrize("cap", [None, 0.5])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_each_sequence_attends_as_if_it_were_alone(
    plan: Plan, window: int | None, cap: float | None, with_sinks: bool
) -> None:
    query, key, value = states(plan)
    sinks = torch.linspace(-1, 2, HEADS) if with_sinks else None
    out = attend(
        plan, (query, key, value), scaling=0.7, sliding_window=window, softcap=cap, s_aux=sinks
    )
    for index, ids in enumerate(SEQUENCES):
        rows = torch.from_numpy(plan.rows(index, np.arange(len(ids))))
        parts = [part[0, :, rows] for part in (query, key, value)]
        expected = plain(*parts, window, cap, sinks, 0.7).transpose(0, 1)
        torch.testing.assert_close(out[0, rows], expected, rtol=0, atol=1e-5)


def test_the_usual_scale_where_none_is_given(plan: Plan) -> None:
    torch.testing.assert_close(
        attend(plan, states(plan)), attend(plan, states(plan), scaling=DIM**-0.5)
    )


def test_it_counts_its_calls(plan: Plan) -> None:
    attend(plan, states(plan))
    attend(plan, states(plan))
    assert plan.calls == 2


def test_layers_of_other_windows_do_not_share_masks(plan: Plan) -> None:
    fresh = build_plan([Tokens(ids) for ids in SEQUENCES])
    attend(plan, states(plan), sliding_window=2)
    attend(plan, states(plan), sliding_window=None)
    again = attend(plan, states(plan), sliding_window=3)
    torch.testing.assert_close(again, attend(fresh, states(plan), sliding_window=3))


def test_a_mask_is_refused(plan: Plan) -> None:
    mask = torch.zeros(1, 1, 1, 1)
    with pytest.raises(Unpackable, match="mask"):
        tree_attention(nn.Identity(), *states(plan), mask, plan=plan)


def test_an_unknown_tensor_argument_is_refused(plan: Plan) -> None:
    with pytest.raises(Unpackable, match="`position_bias`"):
        attend(plan, states(plan), position_bias=torch.zeros(1))


def test_known_and_plain_arguments_pass(plan: Plan) -> None:
    options = {"position_ids": torch.zeros(1), "use_cache": False, "is_causal": None}
    torch.testing.assert_close(attend(plan, states(plan), **options), attend(plan, states(plan)))


def test_without_a_plan_it_is_refused(plan: Plan) -> None:
    with pytest.raises(Unpackable, match="plan"):
        attend(None, states(plan))
