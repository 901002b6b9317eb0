"""May it be packed? The trial at load sees what is wrong, and the fallback says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from loadtest.mutants import MUTANTS, Mutant
from loadtest.tiny_models import DECODERS
from rewardd.engines.torch import selfcheck
from rewardd.engines.torch.checkpoint import Checkpoint, load_checkpoint
from rewardd.engines.torch.detect import detect
from rewardd.engines.torch.forward import PackedForward, PaddedForward
from rewardd.engines.torch.selfcheck import Choice, choose_forward

Tiny = Callable[[str], Path]
Loaded = Callable[[str], Checkpoint]


def choose(checkpoint: Checkpoint, packing: str = "auto") -> Choice:
    return choose_forward(checkpoint.body, checkpoint.manifest.causal, 1000, packing)


@pytest.mark.parametrize("name", [*DECODERS, "gemma3", "qwen2_prm", "qwen3_lm"])
def test_known_decoders_are_packed(loaded: Loaded, name: str) -> None:
    choice = choose(loaded(name))
    assert (choice.packed, choice.reason) == (True, None)
    assert isinstance(choice.forward, PackedForward)


@pytest.mark.parametrize("name", ["falcon_alibi", "bloom"])
def test_others_fall_back_and_say_so(loaded: Loaded, name: str) -> None:
    choice = choose(loaded(name))
    assert not choice.packed
    assert isinstance(choice.forward, PaddedForward)
    assert "not on the list" in (choice.reason or "")


@pytest.mark.parametrize("name", ["falcon_alibi", "bloom"])
def test_the_list_alone_would_not_save_them_and_need_not(
    loaded: Loaded, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body: Any = loaded(name).body
    monkeypatch.setattr(selfcheck, "PACKABLE", {body.config.model_type})
    choice = choose(loaded(name))
    body.config._attn_implementation = "eager"
    assert not choice.packed
    assert "the trial at load failed" in (choice.reason or "")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.name))
def test_a_broken_forward_is_seen_at_load(loaded: Loaded, mutant: Mutant) -> None:
    with mutant.applied():
        choice = choose(loaded(mutant.architecture))
    assert not choice.packed
    assert "differ by" in (choice.reason or "")
    assert choose(loaded(mutant.architecture)).packed


def test_packing_can_be_turned_off(loaded: Loaded) -> None:
    choice = choose(loaded("qwen3"), packing="off")
    assert isinstance(choice.forward, PaddedForward)
    assert choice.reason == "packing is off"


def test_encoders_are_never_packed(loaded: Loaded) -> None:
    choice = choose(loaded("bert"))
    assert not choice.packed
    assert "encoder" in (choice.reason or "")


ROPES = [
    {"rope_type": "longrope", "rope_theta": 1e4},
    {"type": "dynamic"},
    {"full_attention": {"rope_type": "dynamic"}, "sliding_attention": {"rope_type": "default"}},
]


@pytest.mark.parametrize("rope", ROPES)
def test_a_rope_bound_to_the_length_is_computed_one_by_one(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, rope: dict[str, Any]
) -> None:
    config: Any = loaded("qwen3").body.config
    monkeypatch.setattr(config, "rope_parameters", rope)
    choice = choose(loaded("qwen3"))
    assert "depends on the length" in (choice.reason or "")
    assert isinstance(choice.forward, PaddedForward)
    assert choice.forward._max_rows == 1


def test_nan_is_not_taken_for_a_match(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def nan(*args: Any) -> torch.Tensor:
        return torch.full_like(args[0], torch.nan)

    monkeypatch.setattr("rewardd.engines.torch.attention._attend", nan)
    choice = choose(loaded("qwen3"))
    assert not choice.packed
    assert "differ by inf" in (choice.reason or "")


@pytest.mark.parametrize("name", ["qwen3", "peft_score"])
def test_the_trial_leaves_a_half_precision_model_as_it_was(tiny: Tiny, name: str) -> None:
    """Cast to fp32 and back by `to()`, rotary frequencies would come back rounded."""
    cpu, path = torch.device("cpu"), tiny(name)
    checkpoint = load_checkpoint(path, detect(path), dtype=torch.bfloat16, device=cpu)
    before = {key: value.clone() for key, value in checkpoint.body.state_dict().items()}
    buffers = {key: value.clone() for key, value in checkpoint.body.named_buffers()}
    assert choose(checkpoint).packed
    for key, value in checkpoint.body.state_dict().items():
        assert value.dtype == before[key].dtype == torch.bfloat16
        assert torch.equal(value, before[key])
    assert buffers
    for key, value in checkpoint.body.named_buffers():
        assert value.dtype == torch.float32
        assert torch.equal(value, buffers[key])
