"""Tiny seeded models in real architectures, for tests and the parity load test.

Random weights at their usual size would hide mistakes: attention is then nearly uniform, and a
missing soft cap or window changes nothing. So every matrix is scaled by ten, windows (16) are
shorter than the inputs and caps (2.0) bite: leaving one of them out shows in the third decimal.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from loadtest.tiny_tokenizer import VOCABULARY, write_tokenizer
from rewardd.engines.torch.quiet import quiet

WINDOW = 16
SCALE = 10.0
HIDDEN = 64

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = {**_COMMON, "num_key_value_heads": 2, "head_dim": 16}
_MOE = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
_ALTERNATING = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": WINDOW,
}
_GEMMA2 = {
    **_DECODER,
    **_ALTERNATING,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 2.0,
    "query_pre_attn_scalar": 32,
}
_GPT_OSS = {
    **_DECODER,
    **_ALTERNATING,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "max_position_embeddings": 131072,  # its default YaRN factors belong to this length
}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", _DECODER),
    "qwen3": ("Qwen3", _DECODER),
    "llama": ("Llama", _DECODER),
    "mistral": ("Mistral", {**_DECODER, "sliding_window": WINDOW}),
    "gemma2": ("Gemma2", _GEMMA2),
    "gemma3": ("Gemma3Text", {**_DECODER, **_ALTERNATING, "query_pre_attn_scalar": 32}),
    "phi3": ("Phi3", {**_DECODER, "sliding_window": WINDOW}),
    "gpt_neox": ("GPTNeoX", _COMMON),
    "qwen3_moe": ("Qwen3Moe", {**_DECODER, **_MOE, "num_experts": 4}),
    "gpt_oss": ("GptOss", _GPT_OSS),
    "falcon_alibi": ("Falcon", {**_COMMON, "alibi": True, "new_decoder_architecture": False}),
    "bloom": (
        "Bloom",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "n_layer": 3,
            "n_head": 4,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "bert": ("Bert", {**_COMMON, "max_position_embeddings": 512}),
    "roberta": ("Roberta", {**_COMMON, "max_position_embeddings": 514}),
    "deberta_v2": (
        "DebertaV2",
        {
            **_COMMON,
            "max_position_embeddings": 512,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 32,
        },
    ),
    "modernbert": (
        "ModernBert",
        {
            **_COMMON,
            "num_hidden_layers": 4,
            "local_attention": 2 * WINDOW,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "cls_token_id": 3,
            "sep_token_id": 4,
        },
    ),
}
_TEMPLATES = {
    **dict.fromkeys(("llama", "mistral", "gemma2", "gemma3"), "bos"),
    **dict.fromkeys(("bert", "deberta_v2"), "encoder"),
    **dict.fromkeys(("roberta", "modernbert"), "one_type_encoder"),
}

DECODERS = (
    "qwen2",
    "qwen3",
    "llama",
    "mistral",
    "gemma2",
    "phi3",
    "gpt_neox",
    "qwen3_moe",
    "gpt_oss",
)
ENCODERS = ("bert", "modernbert")
UNPACKABLE = ("falcon_alibi", "bloom")


def build(name: str, directory: Path, seed: int = 0) -> Path:
    """Write the tiny model `name` below `directory`; return the directory to serve it from.

    Names are those of `names()`. Equal seeds give equal weights. KeyError for an unknown name.
    """
    family, suffix = _FAMILY_OF.get(name, (name, ""))
    with quiet():
        return _BUILDERS[suffix](family, directory, seed)


def names() -> list[str]:
    """Every name `build` knows."""
    return [*_CONFIGS, *_FAMILY_OF]


def _classifier(family: str, directory: Path, seed: int) -> Path:
    return _save(family, directory, _model(family, "ForSequenceClassification", seed, num_labels=1))


def _two_labels(family: str, directory: Path, seed: int) -> Path:
    return _save(family, directory, _model(family, "ForSequenceClassification", seed, num_labels=2))


def _lm(family: str, directory: Path, seed: int) -> Path:
    return _save(family, directory, _model(family, "ForCausalLM", seed))


def _token_classifier(family: str, directory: Path, seed: int) -> Path:
    model = _model(family, "ForTokenClassification", seed, num_labels=2)
    return _edit_config(_save(family, directory, model), step_tag="<step>")


def _prm(family: str, directory: Path, seed: int) -> Path:
    """`Qwen2ForProcessRewardModel`, as Qwen2.5-Math-PRM: its class exists in remote code only."""
    return _two_layer(family, directory, seed, "ForProcessRewardModel", labels=2)


def _two_layer_scalar(family: str, directory: Path, seed: int) -> Path:
    """`Qwen2ForRewardModel`, as Qwen2.5-Math-RM-72B."""
    return _two_layer(family, directory, seed, "ForRewardModel", labels=1)


def _two_layer(family: str, directory: Path, seed: int, suffix: str, labels: int) -> Path:
    path = _lm(family, directory, seed)
    tensors = load_file(path / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    for index, width in ((0, HIDDEN), (2, labels)):
        tensors[f"score.{index}.weight"] = torch.randn(width, HIDDEN) * 0.2
        tensors[f"score.{index}.bias"] = torch.randn(width) * 0.2
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    architecture = f"{_CONFIGS[family][0]}{suffix}"
    auto_map = {"AutoModel": f"modeling_{family}_rm.{architecture}"}
    return _edit_config(path, architectures=[architecture], num_labels=labels, auto_map=auto_map)


def _trl_value_head(family: str, directory: Path, seed: int) -> Path:
    """TRL's `AutoModelForCausalLMWithValueHead`, saved whole."""
    path = _lm(family, directory, seed)
    tensors = load_file(path / "model.safetensors")
    tensors = {f"pretrained_model.{name}": tensor for name, tensor in tensors.items()}
    tensors["v_head.summary.weight"] = torch.randn(1, HIDDEN) * 0.2
    tensors["v_head.summary.bias"] = torch.randn(1)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def _openrlhf(family: str, directory: Path, seed: int) -> Path:
    """OpenRLHF's reward model: head named in the config, mean and std in it too."""
    path = _lm(family, directory, seed)
    tensors = load_file(path / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    tensors["value_head.weight"] = torch.randn(1, HIDDEN) * 0.2
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return _edit_config(
        path,
        architectures=["RewardModel"],
        value_head_prefix="value_head",
        normalize_reward=True,
        mean=0.75,
        std=1.5,
    )


def _peft_score(family: str, directory: Path, seed: int) -> Path:
    """A causal LM in `base`, and in `adapter` its LoRA update with a trained score head."""
    import peft

    base = _lm(family, directory / "base", seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["score"]
    )
    torch.manual_seed(seed + 1)
    adapted = peft.get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.2)
    adapted.save_pretrained(directory / "adapter")
    write_tokenizer(directory / "adapter", _TEMPLATES.get(family, "chat"))
    return directory / "adapter"


_BUILDERS: dict[str, Callable[[str, Path, int], Path]] = {
    "": _classifier,
    "two_labels": _two_labels,
    "lm": _lm,
    "token_classification": _token_classifier,
    "prm": _prm,
    "rm": _two_layer_scalar,
    "trl_value_head": _trl_value_head,
    "openrlhf": _openrlhf,
    "peft_score": _peft_score,
}
_FAMILY_OF = {
    "qwen2_lm": ("qwen2", "lm"),
    "qwen3_lm": ("qwen3", "lm"),
    "gemma2_lm": ("gemma2", "lm"),
    "mistral_lm": ("mistral", "lm"),
    "qwen2_prm": ("qwen2", "prm"),
    "qwen2_rm": ("qwen2", "rm"),
    "qwen3_two_labels": ("qwen3", "two_labels"),
    "qwen3_tokens": ("qwen3", "token_classification"),
    "trl_value_head": ("qwen2", "trl_value_head"),
    "openrlhf": ("llama", "openrlhf"),
    "peft_score": ("qwen2", "peft_score"),
}


def _model(family: str, suffix: str, seed: int, **extra: Any) -> Any:
    prefix, values = _CONFIGS[family]
    config = getattr(transformers, f"{prefix}Config")(**values, **extra)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, f"{prefix.removesuffix('Text')}{suffix}", None)
    model = model or getattr(transformers, f"{prefix}{suffix}")
    return _scaled(model(config))


def _scaled(model: Any) -> Any:
    """Enlarge every matrix; biases and sinks start at zero and get a value, norms stay."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not name.endswith("_bias"):
                parameter.mul_(SCALE)
            elif name.endswith(("bias", "sinks")):
                parameter.normal_(std=0.2)
    return model


def _save(family: str, directory: Path, model: Any) -> Path:
    model.save_pretrained(directory)
    write_tokenizer(directory, _TEMPLATES.get(family, "chat"))
    return directory


def _edit_config(path: Path, **values: Any) -> Path:
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}, indent=2))
    return path
