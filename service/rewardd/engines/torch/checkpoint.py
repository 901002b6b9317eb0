"""Loading a model for the torch engine: body, head, and nothing invented on the way.

transformers fills weights a checkpoint lacks with random ones and leaves aside those it does not
know; either would serve wrong scores that look right. Both are refused here, as are NaN weights.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
)

from rewardd.engines.manifest import Manifest
from rewardd.engines.torch.detect import load_config
from rewardd.engines.torch.directory import Directory, read_directory
from rewardd.engines.torch.heads import Head, check_finite, read_head
from rewardd.engines.torch.quiet import quiet
from rewardd.errors import StartRefused

_TRL_PREFIX = {r"^pretrained_model\.": ""}
_HEADS = re.compile(
    r"^(lm_head|embed_out|score|classifier|v_head|value_head|reward_head|summary)\."
    r"|^(mean|std)$|(^|\.)rotary_emb\.inv_freq$"
)
_SAVED_HEAD = re.compile(r"\.(score|classifier)\.weight$")
_POOLER = re.compile(r"(^|\.)pooler\.")
_CLASSIFIERS = ("classifier", "score", "classification_head")
_LM_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model in evaluation mode, without gradients.

    `body(input_ids=..., position_ids=..., attention_mask=..., use_cache=False).last_hidden_state`
    is what `head` and `lm_logits` read. `lm` is the causal LM around `body`; `lm_logits` maps
    [n, hidden] to fp32 logits [n, vocabulary], final soft cap included. `sequence` is an encoder's
    whole `*ForSequenceClassification`, whose pooling is its own; its classifier computes in fp32.
    """

    body: nn.Module
    head: Head | None
    lm: nn.Module | None
    lm_logits: Callable[[Tensor], Tensor] | None
    sequence: nn.Module | None
    manifest: Manifest


def load_checkpoint(
    path: Path,
    manifest: Manifest,
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention: str = "eager",
) -> Checkpoint:
    """Load the model of `path` as `manifest` says.

    `attention` is an implementation transformers knows. StartRefused when weights are pickles,
    absent, of the wrong shape, unknown to the architecture, or not finite.
    """
    directory = read_directory(path)
    head = read_head(directory, manifest)
    model = _load(directory, manifest, dtype, attention)
    for name, parameter in model.named_parameters():
        check_finite(name, parameter)
    model = model.eval().requires_grad_(False).to(device)
    head = head.eval().to(device) if head is not None else None
    is_lm, is_sequence = manifest.kind == "lm", manifest.head == "encoder"
    if is_sequence:
        _classify_in_fp32(model)
    return Checkpoint(
        body=model.base_model if is_lm or is_sequence else model,
        head=head,
        lm=model if is_lm else None,
        lm_logits=_checked_lm_logits(model, attention) if is_lm else None,
        sequence=model if is_sequence else None,
        manifest=manifest,
    )


def _load(directory: Directory, manifest: Manifest, dtype: torch.dtype, attention: str) -> Any:
    config = load_config(directory)
    with quiet():
        if directory.adapter is not None:
            return _cast(_load_adapted(directory, config, attention), dtype)
        mapping = _mapping(manifest)
        model = _from_pretrained(directory, config, mapping, dtype, attention)
    return model


def _mapping(manifest: Manifest) -> Any:
    if manifest.kind == "lm":
        return MODEL_FOR_CAUSAL_LM_MAPPING
    if manifest.head == "encoder":
        return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    return MODEL_MAPPING


def _from_pretrained(
    directory: Directory, config: Any, mapping: Any, dtype: torch.dtype, attention: str
) -> Any:
    model_class = _class_of(directory, config, mapping)
    wrapped = any(name.startswith("pretrained_model.") for name in directory.tensors)
    try:
        model, report = model_class.from_pretrained(
            directory.path,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            key_mapping=_TRL_PREFIX if wrapped else None,
            use_safetensors=True,
            output_loading_info=True,
        )
    except StartRefused:
        raise
    except Exception as error:  # wrong shapes, damaged files, an attention the class cannot do
        raise StartRefused(f"{directory.path}: transformers cannot load it: {error}") from error
    _check_report(directory, report, pooled=mapping is not MODEL_MAPPING)
    return model


def _class_of(directory: Directory, config: Any, mapping: Any) -> Any:
    """The class by the configuration's type, not through an auto class, which obeys auto_map."""
    try:
        found = mapping[type(config)]
    except KeyError:
        raise StartRefused(
            f"{directory.path}: transformers has no such model for {directory.model_type!r}"
        ) from None
    return found[0] if isinstance(found, tuple) else found


def _check_report(directory: Directory, report: dict[str, Any], *, pooled: bool) -> None:
    missing = sorted(name for name in report["missing_keys"] if pooled or not _POOLER.search(name))
    if missing:
        raise StartRefused(
            f"{directory.path}: weights are missing, first {missing[0]} ({len(missing)} in all)"
        )
    prefix = str(directory.config.get("value_head_prefix") or "score")
    unknown = sorted(
        name
        for name in report["unexpected_keys"]
        if not (_HEADS.search(name) or name.startswith(f"{prefix}."))
    )
    if unknown:
        raise StartRefused(
            f"{directory.path}: {directory.architecture} does not know the weights {unknown[:3]}"
            f" ({len(unknown)} in all): config.json and weights do not belong together"
        )


def _load_adapted(directory: Directory, config: Any, attention: str) -> Any:
    """The base model with the adapter merged in fp32, where a small update is not rounded away."""
    from peft import PeftModel

    assert directory.base is not None
    body = _from_pretrained(directory.base, config, MODEL_MAPPING, torch.float32, attention)
    whole = _around(body, directory, config)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            merged = PeftModel.from_pretrained(whole, directory.path).merge_and_unload()
    except Exception as error:  # an adapter of another base, in as many forms as adapters
        raise StartRefused(f"{directory.path}: the adapter cannot be merged: {error}") from error
    return merged.base_model


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Parameters only, as transformers does: rotary frequencies and their like stay in fp32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _around(body: Any, directory: Directory, config: Any) -> Any:
    """A sequence classifier around `body`, whose names the adapter's tensors go by."""
    name, shape = next((n, s) for n, s in directory.shapes.items() if _SAVED_HEAD.search(n))
    config.num_labels = shape[0]
    with torch.device("meta"):  # allocates nothing; what is used of it is put in below
        whole = _class_of(directory, config, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)(config)
    setattr(whole, whole.base_model_prefix, body)
    setattr(whole, name.split(".")[-2], nn.Linear(shape[1], shape[0], bias=False))
    return whole


def _classify_in_fp32(model: Any) -> None:
    """Let an encoder's classifier compute in fp32 over a body of any type."""
    found = [getattr(model, name) for name in _CLASSIFIERS if hasattr(model, name)]
    if not found:
        raise StartRefused(f"{type(model).__name__}: its classifier is not where it is expected")
    found[0].float().register_forward_pre_hook(
        lambda _, args: tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in args)
    )


def _checked_lm_logits(lm: Any, attention: str) -> Callable[[Tensor], Tensor]:
    """`lm_logits`, compared once with the model's own on a short input.

    Families scale or cap their logits in ways of their own; one we do not know must not be served.
    """
    logits = _lm_logits(lm)
    ids = torch.arange(8, device=lm.device)[None] % lm.config.get_text_config().vocab_size
    with torch.inference_mode():
        lm.set_attn_implementation("eager")
        theirs = lm(input_ids=ids, use_cache=False).logits[0].float()
        ours = logits(lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
        lm.set_attn_implementation(attention)
    tolerance = _LM_TOLERANCE.get(lm.dtype, 1e-1) * float(theirs.abs().max().clamp(min=1.0))
    if not torch.allclose(ours, theirs, rtol=0.0, atol=tolerance):
        raise StartRefused(f"{type(lm).__name__} changes its logits in a way not known here")
    return logits


def _lm_logits(lm: Any) -> Callable[[Tensor], Tensor]:
    """fp32 logits of hidden states. A half-precision head is kept in fp32 too: it is lossless."""
    output, config = lm.get_output_embeddings(), lm.config.get_text_config()
    weight = output.weight.detach().float()
    bias = None if output.bias is None else output.bias.detach().float()
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere multiplies, Granite divides
    scale /= getattr(config, "logits_scaling", None) or 1.0

    def lm_logits(hidden: Tensor) -> Tensor:
        logits = linear(hidden.float(), weight, bias) * scale
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return lm_logits
