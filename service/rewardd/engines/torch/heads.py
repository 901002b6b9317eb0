"""The heads real reward models carry, read from safetensors by our own code.

A head turns hidden states [n, hidden] into raw values [n, labels]. It computes in fp32 whatever
the body's type: at a reward of 18 one bf16 step is 0.07, and close answers would tie.

Add a layout with one entry in `LAYOUTS`: when it is there, and how to read it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rewardd.engines.manifest import HeadKind, Manifest
from rewardd.engines.torch.directory import Directory
from rewardd.errors import StartRefused

Head = Callable[[Tensor], Tensor]
"""Hidden states [n, hidden] of any float type -> raw values [n, labels] in fp32."""

ENCODERS = frozenset(
    {
        "albert",
        "bert",
        "camembert",
        "convbert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie",
        "eurobert",
        "gte",
        "megatron-bert",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "rembert",
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
    }
)
_ADAPTER = "base_model.model."
_OPENRLHF_MARKS = ("value_head_prefix", "normalize_reward")


@dataclass(frozen=True, slots=True)
class Layout:
    """One way a checkpoint carries its head.

    `matches` sees names and shapes only. `prefix` gives the name of the tensors, up to `.weight`;
    none means that transformers reads the head (encoders) or that there is none (causal LMs).
    """

    name: str
    about: str
    matches: Callable[[Directory], bool]
    kind: Callable[[Directory], HeadKind]
    prefix: Callable[[Directory], str] | None = None
    two_layers: bool = False


class LinearHead(nn.Module):
    """One linear layer, or Linear-ReLU-Linear; then (value - mean) / std where the model has it."""

    def __init__(self, layers: list[tuple[Tensor, Tensor | None]], mean: float, std: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_linear(weight, bias) for weight, bias in layers)
        self.mean, self.std = mean, std

    def forward(self, hidden: Tensor) -> Tensor:
        values = hidden.float()
        for index, layer in enumerate(self.layers):
            values = layer(values if index == 0 else values.relu())
        return (values - self.mean) / self.std


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.float(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.float(), requires_grad=False)
    return layer


def layout_of(directory: Directory) -> Layout:
    """The layout of a checkpoint's head; StartRefused lists what is known."""
    for layout in LAYOUTS:
        if layout.matches(directory):
            return layout
    known = "\n".join(f"  {layout.name}: {layout.about}" for layout in LAYOUTS)
    code = (
        " It names code of its own (auto_map), which is never run."
        if "auto_map" in directory.config
        else ""
    )
    raise StartRefused(
        f"{directory.path}: no known head for the architecture"
        f" {directory.architecture or '(none named in config.json)'}.{code} Known are:\n{known}"
    )


def num_labels_of(directory: Directory, layout: Layout) -> int:
    """How many values the head gives; 0 when its tensors do not say (encoders, causal LMs)."""
    if layout.prefix is None:
        return 0
    last = layout.prefix(directory) + (".2" if layout.two_layers else "")
    return directory.shapes[f"{last}.weight"][0]


def normalisation_of(directory: Directory, layout: Layout) -> tuple[float, float]:
    """OpenRLHF's stored mean and std, where its config says to apply them; else (0, 1).

    The config wins over tensors of that name, as in OpenRLHF's own loader.
    """
    if layout.name != "openrlhf" or not directory.config.get("normalize_reward", False):
        return 0.0, 1.0
    mean, std = (_stored(directory, name, missing) for name, missing in (("mean", 0), ("std", 1)))
    if not (abs(mean) < float("inf") and 0 < std < float("inf")):
        raise StartRefused(f"{directory.path}: reward mean {mean} and std {std} cannot be applied")
    return mean, std


def _stored(directory: Directory, name: str, missing: float) -> float:
    if name in directory.config:
        return float(directory.config[name])
    return float(directory.tensor(name).flatten()[0]) if name in directory.tensors else missing


def read_head(directory: Directory, manifest: Manifest) -> LinearHead | None:
    """The head the manifest names, in fp32 on the CPU; None where the layout has none of its own.

    StartRefused when its tensors are absent or not finite.
    """
    layout = next((known for known in LAYOUTS if known.name == manifest.head), None)
    if layout is None or not layout.matches(directory):
        raise StartRefused(
            f"{directory.path}: the manifest says head {manifest.head!r}, but its weights have none"
        )
    if layout.prefix is None:
        return None
    prefix = layout.prefix(directory)
    names = [f"{prefix}.0", f"{prefix}.2"] if layout.two_layers else [prefix]
    return LinearHead(
        [(_finite(directory, f"{name}.weight"), _bias(directory, name)) for name in names],
        manifest.mean,
        manifest.std,
    )


def _bias(directory: Directory, prefix: str) -> Tensor | None:
    name = f"{prefix}.bias"
    return _finite(directory, name) if name in directory.tensors else None


def _finite(directory: Directory, name: str) -> Tensor:
    tensor = directory.tensor(name)
    check_finite(name, tensor)
    return tensor


def check_finite(name: str, tensor: Tensor) -> None:
    """StartRefused when a weight holds NaN or infinity: every score would be one."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise StartRefused(f"the weight {name} holds NaN or infinity: the checkpoint is damaged")


def _ends(directory: Directory, *endings: str) -> bool:
    return directory.architecture.endswith(endings)


def _is_matrix(directory: Directory, prefix: str) -> bool:
    return len(directory.shapes.get(f"{prefix}.weight", ())) == 2


def _two_layered(directory: Directory) -> bool:
    return all(_is_matrix(directory, f"score.{index}") for index in (0, 2)) and _ends(
        directory, "ForProcessRewardModel", "ForRewardModel"
    )


def _value_prefix(directory: Directory) -> str:
    names = ("v_head.summary", "v_head")
    return next((name for name in names if _is_matrix(directory, name)), "")


def _openrlhf_prefix(directory: Directory) -> str:
    """The stated name, else the default of today or that of 2024."""
    stated = directory.config.get("value_head_prefix")
    names = (str(stated),) if stated else ("score", "value_head")
    return next((name for name in names if _is_matrix(directory, name)), "")


def _is_openrlhf(directory: Directory) -> bool:
    """A critic is marked alike, but estimates the value of states: it is no reward model."""
    marked = directory.architecture == "RewardModel" or any(
        key in directory.config for key in _OPENRLHF_MARKS
    )
    return marked and directory.architecture != "CriticModel" and bool(_openrlhf_prefix(directory))


def _score_prefix(directory: Directory) -> str:
    return next((name for name in ("score", "classifier") if _is_matrix(directory, name)), "")


def _adapter_prefix(directory: Directory) -> str:
    names = (f"{_ADAPTER}score", f"{_ADAPTER}classifier")
    return next((name for name in names if _is_matrix(directory, name)), "")


def _is_adapter(directory: Directory) -> bool:
    adapter = directory.adapter
    return adapter is not None and adapter.get("task_type") == "SEQ_CLS" and _decodes(directory)


def _is_encoder(directory: Directory) -> bool:
    return directory.model_type in ENCODERS


def _decodes(directory: Directory) -> bool:
    """Whether the body is a plain decoder: no encoder, and not one with two stacks or images."""
    config = directory.config
    return not (
        _is_encoder(directory)
        or config.get("is_encoder_decoder")
        or "vision_config" in config
        or "audio_config" in config
    )


def _step_or_sequence(*endings: str) -> Callable[[Directory], HeadKind]:
    def kind(directory: Directory) -> HeadKind:
        return "token_classify" if _ends(directory, *endings) else "classify"

    return kind


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "peft_score",
        "a PEFT adapter (SEQ_CLS) with its trained score head saved beside it",
        lambda d: _is_adapter(d) and bool(_adapter_prefix(d)),
        lambda d: "classify",
        _adapter_prefix,
    ),
    Layout(
        "two_layer",
        "Qwen2ForProcessRewardModel and Qwen2ForRewardModel (Linear, ReLU, Linear)",
        lambda d: d.adapter is None and _two_layered(d),
        _step_or_sequence("ForProcessRewardModel"),
        lambda d: "score",
        two_layers=True,
    ),
    Layout(
        "value_head",
        "TRL's AutoModelForCausalLMWithValueHead and Skywork-o1-PRM (v_head)",
        lambda d: d.adapter is None and _decodes(d) and bool(_value_prefix(d)),
        _step_or_sequence("ForPrmModel", "PRM_MODEL", "PrmModel"),
        _value_prefix,
    ),
    Layout(
        "openrlhf",
        "OpenRLHF's reward model (value_head_prefix, mean and std in config.json)",
        lambda d: d.adapter is None and _decodes(d) and _is_openrlhf(d),
        lambda d: "classify",
        _openrlhf_prefix,
    ),
    Layout(
        "encoder",
        "encoders' *ForSequenceClassification (BERT, RoBERTa, DeBERTa, ModernBERT and kin)",
        lambda d: d.adapter is None and _is_encoder(d) and _ends(d, "ForSequenceClassification"),
        lambda d: "classify",
    ),
    Layout(
        "sequence_classification",
        "decoders' *ForSequenceClassification (score)",
        lambda d: (
            d.adapter is None
            and _decodes(d)
            and _ends(d, "ForSequenceClassification")
            and _is_matrix(d, "score")
        ),
        lambda d: "classify",
        lambda d: "score",
    ),
    Layout(
        "token_classification",
        "*ForTokenClassification (score or classifier)",
        lambda d: (
            d.adapter is None and _ends(d, "ForTokenClassification") and bool(_score_prefix(d))
        ),
        lambda d: "token_classify",
        _score_prefix,
    ),
    Layout(
        "lm",
        "decoders' *ForCausalLM",
        lambda d: d.adapter is None and _decodes(d) and _ends(d, "ForCausalLM", "LMHeadModel"),
        lambda d: "lm",
    ),
)
