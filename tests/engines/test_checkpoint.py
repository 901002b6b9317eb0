"""Loaded models give transformers' values, and nothing is invented or left out in loading."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from loadtest import tiny_models
from rewardd.engines.torch.check import probe_groups
from rewardd.engines.torch.checkpoint import Checkpoint, load_checkpoint
from rewardd.engines.torch.detect import detect
from rewardd.engines.torch.heads import check_finite
from rewardd.engines.torch.reference import Reference, Tokens
from rewardd.errors import StartRefused
from rewardd_types import Group

Tiny = Callable[[str], Path]
CPU = torch.device("cpu")


def load(path: Path, dtype: torch.dtype = torch.float32) -> Checkpoint:
    return load_checkpoint(path, detect(path), dtype=dtype, device=CPU)


def hidden(checkpoint: Checkpoint, tokens: Tokens) -> Tensor:
    """The body's states, called as the engine calls it."""
    states: Tensor = checkpoint.body(
        input_ids=tokens.inputs["input_ids"], attention_mask=None, use_cache=False
    ).last_hidden_state[0]
    return states


@torch.inference_mode()
def values(checkpoint: Checkpoint, reference: Reference, group: Group) -> list[list[float]]:
    """What the checkpoint gives for what the reference reads."""
    found = []
    for response in group.responses:
        tokens = reference.tokens(group, response)
        if checkpoint.sequence is not None:
            found.append(checkpoint.sequence(**tokens.inputs).logits[0].tolist())
        elif checkpoint.head is not None:
            rows = checkpoint.head(hidden(checkpoint, tokens))
            found.append(rows[tokens.tags or [-1]].flatten().tolist())
        else:
            assert checkpoint.lm_logits is not None
            logprobs = checkpoint.lm_logits(hidden(checkpoint, tokens)).log_softmax(-1)
            first, end = tokens.reply
            chosen = tokens.inputs["input_ids"][0, first:end, None]
            found.append(logprobs[first - 1 : end - 1].gather(1, chosen)[:, 0].tolist())
    return found


def largest(one: list[list[float]], other: list[list[float]]) -> float:
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return max(abs(a - b) for a, b in pairs)


@pytest.mark.parametrize("name", tiny_models.names())
def test_values_are_those_of_transformers(tiny: Tiny, name: str) -> None:
    path = tiny(name)
    manifest = detect(path)
    reference, checkpoint = Reference(path, manifest), load(path)
    for group in probe_groups(manifest):
        assert largest(values(checkpoint, reference, group), reference.values(group)) < 1e-5


@pytest.mark.parametrize("name", ["gemma2", "bert", "modernbert", "qwen2_prm", "gemma2_lm"])
def test_half_precision_bodies_give_fp32_values(tiny: Tiny, name: str) -> None:
    path = tiny(name)
    manifest = detect(path)
    reference, checkpoint = Reference(path, manifest), load(path, torch.bfloat16)
    assert next(checkpoint.body.parameters()).dtype == torch.bfloat16
    group = probe_groups(manifest)[0]
    tokens = reference.tokens(group, group.responses[0])
    with torch.inference_mode():
        if checkpoint.sequence is not None:
            found = checkpoint.sequence(**tokens.inputs).logits
        else:
            read = checkpoint.head or checkpoint.lm_logits
            assert read is not None
            found = read(hidden(checkpoint, tokens))
    assert found.dtype == torch.float32


def test_a_model_is_ready_to_serve(tiny: Tiny) -> None:
    checkpoint = load(tiny("qwen3_lm"))
    assert checkpoint.lm is not None
    assert checkpoint.lm.base_model is checkpoint.body
    assert not checkpoint.body.training
    assert not [p for p in checkpoint.lm.parameters() if p.requires_grad]


class TestMutants:
    """The tiny models are made so that a mistake in attention shows: each of these does."""

    @pytest.mark.parametrize(
        ("name", "attribute", "value"),
        [
            ("gemma2", "attn_logit_softcapping", None),
            ("gemma2", "sliding_window", tiny_models.WINDOW + 1),
            ("mistral", "sliding_window", tiny_models.WINDOW + 1),
            ("phi3", "sliding_window", tiny_models.WINDOW + 1),
            ("gpt_oss", "sliding_window", tiny_models.WINDOW + 1),
        ],
    )
    def test_cap_or_window(self, tiny: Tiny, name: str, attribute: str, value: Any) -> None:
        path = tiny(name)
        manifest = detect(path)
        reference, checkpoint = Reference(path, manifest), load(path)
        for module in [checkpoint.body, *checkpoint.body.modules()]:
            for holder in (module, getattr(module, "config", None)):
                if hasattr(holder, attribute):
                    setattr(holder, attribute, value)
        group = probe_groups(manifest)[0]
        assert largest(values(checkpoint, reference, group), reference.values(group)) > 1e-2

    def test_final_cap(self, tiny: Tiny) -> None:
        checkpoint = load(tiny("gemma2_lm"))
        assert checkpoint.lm_logits is not None
        states = torch.randn(4, tiny_models.HIDDEN, generator=torch.Generator().manual_seed(0)) * 9
        assert checkpoint.lm_logits(states).abs().max() <= 2.0


class TestRefused:
    @pytest.fixture
    def change(self, tiny: Tiny, tmp_path: Path) -> Callable[..., Path]:
        """A copy of a tiny model with other tensors (None removes one) and config values."""

        def changed(name: str, tensors: dict[str, Tensor | None], **config: Any) -> Path:
            path = Path(shutil.copytree(tiny(name), tmp_path / name))
            content = {**json.loads((path / "config.json").read_text()), **config}
            (path / "config.json").write_text(json.dumps(content))
            stored: dict[str, Tensor | None] = {**load_file(path / "model.safetensors")}
            kept = {n: tensor for n, tensor in {**stored, **tensors}.items() if tensor is not None}
            save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
            return path

        return changed

    @pytest.mark.parametrize("name", ["qwen3", "qwen2_prm", "qwen3_lm", "bert"])
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(
        self, tiny: Tiny, change: Callable[..., Path], name: str, bad: float
    ) -> None:
        tensors = load_file(tiny(name) / "model.safetensors")
        key = next(key for key in tensors if "layer" in key and key.endswith("weight"))
        tensors[key].view(-1)[7] = bad
        with pytest.raises(StartRefused, match=f"{key.split('.', 1)[1]} holds NaN or infinity"):
            load(change(name, {key: tensors[key]}))

    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("qwen3", "model.layers.1.mlp.up_proj.weight"),
            ("qwen3", "model.embed_tokens.weight"),
            ("qwen3_lm", "model.norm.weight"),
            ("bert", "classifier.weight"),
            ("trl_value_head", "pretrained_model.model.layers.0.self_attn.q_proj.weight"),
        ],
    )
    def test_weights_that_are_missing(
        self, change: Callable[..., Path], name: str, key: str
    ) -> None:
        with pytest.raises(StartRefused, match="weights are missing"):
            load(change(name, {key: None}))

    def test_a_causal_lm_without_its_head(self, change: Callable[..., Path]) -> None:
        with pytest.raises(StartRefused, match=r"missing, first lm_head\.weight"):
            load(change("qwen3_lm", {"lm_head.weight": None}))

    def test_but_tied_embeddings_are_one(self, change: Callable[..., Path]) -> None:
        path = change("qwen3_lm", {"lm_head.weight": None}, tie_word_embeddings=True)
        assert load(path).lm_logits is not None

    def test_weights_the_architecture_does_not_know(self, change: Callable[..., Path]) -> None:
        bias = {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}
        with pytest.raises(StartRefused, match="do not belong together"):
            load(change("qwen3", bias))

    def test_fewer_layers_than_there_are(self, change: Callable[..., Path]) -> None:
        path = change("llama", {}, num_hidden_layers=2)
        with pytest.raises(StartRefused, match="do not belong together"):
            load(path)

    def test_weights_of_another_shape(self, change: Callable[..., Path]) -> None:
        with pytest.raises(StartRefused, match="cannot load it"):
            load(change("qwen3", {"model.norm.weight": torch.ones(63)}))

    def test_an_adapter_of_another_base(self, tiny: Tiny, tmp_path: Path) -> None:
        adapter = Path(shutil.copytree(tiny("peft_score"), tmp_path / "adapter"))
        config = json.loads((adapter / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = str(tiny("gpt_neox"))
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(StartRefused, match="cannot be merged"):
            load(adapter)

    def test_an_adapter_with_layers_missing(self, tiny: Tiny, tmp_path: Path) -> None:
        adapter = Path(shutil.copytree(tiny("peft_score"), tmp_path / "adapter"))
        tensors = load_file(adapter / "adapter_model.safetensors")
        tensors.pop(next(key for key in tensors if "lora_B" in key))
        save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(StartRefused, match="cannot be merged"):
            load(adapter)

    def test_logits_scaled_in_an_unknown_way(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import Qwen3ForCausalLM

        forward = Qwen3ForCausalLM.forward

        def scaled(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            output.logits = output.logits * 2
            return output

        monkeypatch.setattr(Qwen3ForCausalLM, "forward", scaled)
        with pytest.raises(StartRefused, match="changes its logits"):
            load(tiny("qwen3_lm"))


def test_integers_are_finite() -> None:
    check_finite("index", torch.arange(3))
