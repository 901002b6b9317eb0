"""Heads: read from the tensors of each layout, in fp32, with the stored normalisation."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from rewardd.engines.torch.detect import detect
from rewardd.engines.torch.directory import read_directory
from rewardd.engines.torch.heads import LAYOUTS, LinearHead, layout_of, read_head
from rewardd.errors import StartRefused

Tiny = Callable[[str], Path]
HIDDEN = torch.linspace(-2, 2, 3 * 64).reshape(3, 64)


def head_of(path: Path) -> LinearHead:
    head = read_head(read_directory(path), detect(path))
    assert head is not None
    return head


@pytest.fixture
def change(tiny: Tiny, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny model with other config values and tensors (None removes one)."""

    def changed(name: str, tensors: dict[str, torch.Tensor | None], **config: Any) -> Path:
        path = Path(shutil.copytree(tiny(name), tmp_path / name))
        content = {**json.loads((path / "config.json").read_text()), **config}
        (path / "config.json").write_text(json.dumps(content))
        stored: dict[str, torch.Tensor | None] = {**load_file(path / "model.safetensors")}
        kept = {
            name: tensor for name, tensor in {**stored, **tensors}.items() if tensor is not None
        }
        save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
        return path

    return changed


def test_names_of_layouts_are_unique() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


def test_a_linear_score(tiny: Tiny) -> None:
    weight = load_file(tiny("qwen3") / "model.safetensors")["score.weight"]
    torch.testing.assert_close(head_of(tiny("qwen3"))(HIDDEN), HIDDEN @ weight.T)


def test_token_classification_with_bias(tiny: Tiny) -> None:
    tensors = load_file(tiny("qwen3_tokens") / "model.safetensors")
    expected = HIDDEN @ tensors["score.weight"].T + tensors["score.bias"]
    torch.testing.assert_close(head_of(tiny("qwen3_tokens"))(HIDDEN), expected)


@pytest.mark.parametrize("name", ["qwen2_prm", "qwen2_rm"])
def test_two_layers(tiny: Tiny, name: str) -> None:
    tensors = load_file(tiny(name) / "model.safetensors")
    inner = (HIDDEN @ tensors["score.0.weight"].T + tensors["score.0.bias"]).clamp(min=0)
    expected = inner @ tensors["score.2.weight"].T + tensors["score.2.bias"]
    torch.testing.assert_close(head_of(tiny(name))(HIDDEN), expected)


def test_trl_value_head(tiny: Tiny) -> None:
    tensors = load_file(tiny("trl_value_head") / "model.safetensors")
    expected = HIDDEN @ tensors["v_head.summary.weight"].T + tensors["v_head.summary.bias"]
    torch.testing.assert_close(head_of(tiny("trl_value_head"))(HIDDEN), expected)


def test_a_value_head_in_a_file_of_its_own(change: Callable[..., Path]) -> None:
    head = {"v_head.summary.weight": torch.ones(1, 64), "v_head.summary.bias": torch.ones(1)}
    path = change("trl_value_head", dict.fromkeys(head, None))
    save_file(head, path / "value_head.safetensors")
    torch.testing.assert_close(head_of(path)(HIDDEN), HIDDEN.sum(1, keepdim=True) + 1)


def test_peft_score(tiny: Tiny) -> None:
    tensors = load_file(tiny("peft_score") / "adapter_model.safetensors")
    expected = HIDDEN @ tensors["base_model.model.score.weight"].T
    torch.testing.assert_close(head_of(tiny("peft_score"))(HIDDEN), expected)


class TestOpenRLHF:
    def test_normalises_as_its_config_says(self, tiny: Tiny) -> None:
        weight = load_file(tiny("openrlhf") / "model.safetensors")["value_head.weight"]
        expected = (HIDDEN @ weight.T - 0.75) / 1.5
        torch.testing.assert_close(head_of(tiny("openrlhf"))(HIDDEN), expected)
        manifest = detect(tiny("openrlhf"))
        assert (manifest.mean, manifest.std) == (0.75, 1.5)

    def test_not_unless_its_config_says(self, change: Callable[..., Path]) -> None:
        manifest = detect(change("openrlhf", {}, normalize_reward=False))
        assert (manifest.mean, manifest.std) == (0.0, 1.0)

    def test_mean_and_std_as_tensors(self, change: Callable[..., Path]) -> None:
        stored = {"mean": torch.tensor([2.0]), "std": torch.tensor([4.0])}
        path = change("openrlhf", stored)
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if key not in stored})
        )
        manifest = detect(path)
        assert (manifest.mean, manifest.std) == (2.0, 4.0)

    @pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_std_that_cannot_divide(self, change: Callable[..., Path], std: float) -> None:
        with pytest.raises(StartRefused, match="cannot be applied"):
            detect(change("openrlhf", {}, std=std))

    def test_the_usual_score_prefix(self, change: Callable[..., Path]) -> None:
        path = change(
            "qwen3", {}, architectures=["RewardModel"], normalize_reward=True, mean=1.0, std=2.0
        )
        weight = load_file(path / "model.safetensors")["score.weight"]
        torch.testing.assert_close(head_of(path)(HIDDEN), (HIDDEN @ weight.T - 1) / 2)

    def test_its_default_prefix_of_2024(self, change: Callable[..., Path]) -> None:
        path = change("openrlhf", {}, value_head_prefix=None)
        assert detect(path).head == "openrlhf"

    def test_a_critic_is_no_reward_model(self, change: Callable[..., Path]) -> None:
        with pytest.raises(StartRefused, match="no known head"):
            detect(change("openrlhf", {}, architectures=["CriticModel"]))

    def test_the_manifest_wins(self, tiny: Tiny) -> None:
        manifest = msgspec.structs.replace(detect(tiny("openrlhf")), mean=0.0, std=1.0)
        head = read_head(read_directory(tiny("openrlhf")), manifest)
        assert head is not None
        torch.testing.assert_close(head(HIDDEN), head_of(tiny("openrlhf"))(HIDDEN) * 1.5 + 0.75)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_states_are_scored_in_fp32(tiny: Tiny, dtype: torch.dtype) -> None:
    states = HIDDEN.to(dtype)
    values = head_of(tiny("qwen3"))(states)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, head_of(tiny("qwen3"))(states.float()))


def test_encoders_and_causal_lms_have_none_of_their_own(tiny: Tiny) -> None:
    for name in ("bert", "qwen3_lm"):
        assert read_head(read_directory(tiny(name)), detect(tiny(name))) is None


@pytest.mark.parametrize(("bad", "name"), [(float("nan"), "qwen3"), (float("inf"), "qwen3")])
def test_a_damaged_head_is_named(change: Callable[..., Path], bad: float, name: str) -> None:
    path = change(name, {"score.weight": torch.full((1, 64), bad)})
    with pytest.raises(StartRefused, match=r"score\.weight holds NaN or infinity"):
        head_of(path)


def test_a_manifest_of_another_head_is_refused(tiny: Tiny) -> None:
    for head in ("two_layer", "unheard_of"):
        manifest = msgspec.structs.replace(detect(tiny("qwen3")), head=head)
        with pytest.raises(StartRefused, match="its weights have none"):
            read_head(read_directory(tiny("qwen3")), manifest)


def test_a_classifier_without_its_score_is_refused(change: Callable[..., Path]) -> None:
    with pytest.raises(StartRefused, match="no known head"):
        layout_of(read_directory(change("qwen3", {"score.weight": None})))
