"""Packed and padded forwards give what each sequence gives on its own."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rewardd.engines.torch import attention
from rewardd.engines.torch.attention import Unpackable
from rewardd.engines.torch.checkpoint import Checkpoint
from rewardd.engines.torch.forward import Forward, PackedForward, PaddedForward, Read, States
from rewardd.engines.torch.plan import Tokens

Loaded = Callable[[str], Checkpoint]
# Windows, soft caps, sinks, learned positions, experts: what may go wrong differs.
FAMILIES = ("gemma2", "gemma3", "mistral", "gpt_oss", "qwen3", "gpt_neox", "qwen3_moe", "phi3")


def reads() -> list[Read]:
    """Shared prompts longer than the window, prefixes of each other, duplicates, one token."""
    random = np.random.default_rng(3)
    prompt, other = (random.integers(9, 265, size).tolist() for size in (40, 7))
    tail = random.integers(9, 265, 30).tolist()
    sequences = [
        prompt + tail,
        prompt + tail[:11],
        prompt + tail,
        prompt,
        other + tail,
        other,
        prompt + tail[:11] + other,
        tail[:1],
    ]
    return [Read(Tokens(ids), np.arange(len(ids))) for ids in sequences]


def packed(checkpoint: Checkpoint) -> PackedForward:
    config: Any = checkpoint.body.config
    return PackedForward(checkpoint.body, config.num_hidden_layers)


def single(checkpoint: Checkpoint) -> PaddedForward:
    return PaddedForward(checkpoint.body, max_rows=1)


def largest(one: Sequence[States], other: Sequence[States]) -> float:
    gaps = [(a.hidden - b.hidden).abs().max().item() for a, b in zip(one, other, strict=True)]
    return max(gaps)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_one_by_one(loaded: Loaded, family: str) -> None:
    checkpoint = loaded(family)
    assert largest(packed(checkpoint)(reads()), single(checkpoint)(reads())) < 1e-4


@pytest.mark.parametrize("family", ["mistral", "gpt_oss", "falcon_alibi", "bloom", "gpt_neox"])
@pytest.mark.parametrize("max_tokens", [1, 100, 10_000])
def test_padded_batches_equal_singles(loaded: Loaded, family: str, max_tokens: int) -> None:
    checkpoint = loaded(family)
    padded = PaddedForward(checkpoint.body, max_tokens)
    assert largest(padded(reads()), single(checkpoint)(reads())) < 1e-4


def test_the_order_of_the_reads_does_not_matter(loaded: Loaded) -> None:
    forward = packed(loaded("gemma2"))
    assert largest(forward(reads())[::-1], forward(reads()[::-1])) < 1e-5


def test_a_read_gives_the_asked_positions_in_their_order(loaded: Loaded) -> None:
    ids = reads()[0].tokens.ids.tolist()
    for forward in (packed(loaded("qwen3")), single(loaded("qwen3"))):
        everything = forward([Read(Tokens(ids), np.arange(len(ids)))])[0].hidden
        some = forward([Read(Tokens(ids), np.array([50, 3, 3]))])[0].hidden
        torch.testing.assert_close(some, everything[[50, 3, 3]])


@pytest.mark.parametrize("kind", [packed, single])
def test_a_read_of_nothing_gives_nothing(
    loaded: Loaded, kind: Callable[[Checkpoint], Forward]
) -> None:
    nothing = Read(Tokens([20, 30]), np.empty(0, dtype=np.int64))
    both = kind(loaded("qwen3"))([nothing, Read(Tokens([20, 31]), np.array([1]))])
    assert [len(states.hidden) for states in both] == [0, 1]


def test_equal_sequences_may_read_different_positions(loaded: Loaded) -> None:
    ids = [20, 30, 40]
    wanted = [Read(Tokens(ids), np.array([0])), Read(Tokens(ids), np.array([2, 1]))]
    one, other = PaddedForward(loaded("qwen3").body, 1000)(wanted)
    everything = single(loaded("qwen3"))([Read(Tokens(ids), np.arange(3))])[0].hidden
    torch.testing.assert_close(torch.cat([one.hidden, other.hidden]), everything[[0, 2, 1]])
    assert (one.computed, other.computed) == (3, 0)


def test_computed_tokens_are_unique_ones_when_packed_and_whole_sequences_when_padded(
    loaded: Loaded,
) -> None:
    unique = {
        tuple(read.tokens.ids.tolist()[: n + 1])
        for read in reads()
        for n in range(len(read.tokens))
    }
    whole = {tuple(read.tokens.ids.tolist()) for read in reads()}
    assert sum(s.computed for s in packed(loaded("qwen3"))(reads())) == len(unique)
    assert sum(s.computed for s in single(loaded("qwen3"))(reads())) == sum(map(len, whole))


def test_batches_stay_within_the_padded_budget(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    body = loaded("qwen3").body
    call = type(body).forward

    def watched(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append(tuple(kwargs["input_ids"].shape))
        return call(self, *args, **kwargs)

    monkeypatch.setattr(type(body), "forward", watched)
    PaddedForward(body, max_tokens=120, max_rows=3)(reads())
    assert all(rows * width <= 120 or rows == 1 for rows, width in seen)
    assert max(rows for rows, _ in seen) > 1
    assert all(rows <= 3 for rows, _ in seen)


def test_padded_batches_are_let_go_once_read(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole states of all sequences at once would not fit, where only a few positions are read."""
    forward = PaddedForward(loaded("qwen3").body, max_rows=1)
    alive: list[weakref.ref[torch.Tensor]] = []
    compute = forward._hidden

    def watched(batch: list[Tokens]) -> list[torch.Tensor]:
        assert sum(ref() is not None for ref in alive) <= 1
        (hidden,) = compute(batch)
        alive.append(weakref.ref(hidden))
        return [hidden]

    monkeypatch.setattr(forward, "_hidden", watched)
    forward(reads())
    assert len(alive) > 4


def test_one_body_may_be_packed_and_padded_in_turn(loaded: Loaded) -> None:
    checkpoint = loaded("gemma2")
    one, two = packed(checkpoint), single(checkpoint)
    first = one(reads())
    two(reads())
    assert largest(first, one(reads())) == 0.0


@pytest.mark.parametrize("family", ["falcon_alibi", "bloom"])
def test_a_model_whose_attention_is_its_own_cannot_be_packed(loaded: Loaded, family: str) -> None:
    body: Any = loaded(family).body
    try:
        with pytest.raises((Unpackable, ValueError, TypeError)):
            PackedForward(body, body.config.num_hidden_layers)(reads())
    finally:
        body.config._attn_implementation = "eager"


def test_a_layer_that_does_not_attend_is_noticed(loaded: Loaded) -> None:
    """As a hybrid model, of whose layers some mix tokens in another way."""
    body: Any = loaded("qwen3").body
    with pytest.raises(Unpackable, match="3 times for 4 layers"):
        PackedForward(body, body.config.num_hidden_layers + 1)(reads())


def test_a_tensor_that_attention_does_not_know_reaches_it(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further keyword arguments of the body arrive in the attention function, and are refused."""
    body: Any = loaded("qwen3").body
    forward = type(body).forward

    def with_bias(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs, position_bias=torch.zeros(1))

    monkeypatch.setattr(type(body), "forward", with_bias)
    with pytest.raises(Unpackable, match="position_bias"):
        PackedForward(body, body.config.num_hidden_layers)(reads())
    assert body.config._attn_implementation == attention.NAME
