"""The three architectures: how they are built, grown and saved.

A body first learns to write solutions with `LANGUAGE_LAYERS` layers. A reward model is that body
with two more on top, and while it learns, every storey keeps a duty of its own: the lower layers
go on predicting what a right line says, the first fresh one tells at each token whether it is one
that was to be expected, and the last gathers that into a verdict. Left to find this by itself, a
model of this size spends its layers on arithmetic and hardly learns to compare.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2Model, Qwen3Config, Qwen3Model

from rewardd.demo import tokenizer

Family = Literal["qwen2", "qwen3"]

HIDDEN = 128
LANGUAGE_LAYERS = 4
JUDGE_LAYERS = 2

_CONFIGS: dict[Family, Any] = {"qwen2": Qwen2Config, "qwen3": Qwen3Config}
_MODELS: dict[Family, Any] = {"qwen2": Qwen2Model, "qwen3": Qwen3Model}


def config(family: Family, num_layers: int) -> Any:
    """Return the shape of a body: 128 wide, 4 heads of 32 on 2 key-value heads."""
    ids = tokenizer.vocabulary()
    return _CONFIGS[family](
        vocab_size=len(ids),
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=tokenizer.MAX_TOKENS,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        pad_token_id=ids[tokenizer.PAD],
        bos_token_id=None,
        eos_token_id=ids[tokenizer.END],
        use_cache=True,
    )


class Writer(nn.Module):
    """A body that writes, through an output matrix of its own.

    Tied to the embedding it would have to erase what token it stands on, which judges must know.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = _MODELS["qwen3"](config("qwen3", LANGUAGE_LAYERS))
        self.lm_head = nn.Linear(HIDDEN, self.body.config.vocab_size, bias=False)
        # Only while training: keeps the token a position stands on readable at the top.
        self.own_head = nn.Linear(HIDDEN, self.body.config.vocab_size, bias=False)
        for head in (self.lm_head, self.own_head):
            nn.init.normal_(head.weight, std=0.02)

    def forward(self, ids: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of next and own token [written, vocabulary].

        `ids` and the mask `written` are [rows, length].
        """
        hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state[written]
        return self.lm_head(hidden), self.own_head(hidden)


class Verdicts(NamedTuple):
    """What the storeys of a judge say, each at the positions where it is asked."""

    language: tuple[Tensor, Tensor]
    """Logits of next and own token [written, vocabulary]."""
    tokens: Tensor
    """Logit that a token is right [compared]."""
    labels: Tensor
    """Head outputs [judged, labels]."""


class Judge(nn.Module):
    """A writer grown by `JUDGE_LAYERS` and a head that reads the top."""

    def __init__(self, writer: Writer, head: nn.Module) -> None:
        super().__init__()
        self.family: Family = "qwen3"
        self.body = _grown(writer)
        self.score = head
        # These read the lower storeys while training and are not saved.
        self.language_norm = copy.deepcopy(writer.body.norm)
        self.lm_head, self.own_head = writer.lm_head, writer.own_head
        self.token_score = nn.Sequential(nn.RMSNorm(HIDDEN), nn.Linear(HIDDEN, 1))

    def forward(self, ids: Tensor, written: Tensor, compared: Tensor, judged: Tensor) -> Verdicts:
        """Read `ids` [rows, length]; the other three are masks of that shape."""
        output = self.body(input_ids=ids, use_cache=False, output_hidden_states=True)
        lower = self.language_norm(output.hidden_states[LANGUAGE_LAYERS][written])
        middle = output.hidden_states[LANGUAGE_LAYERS + 1][compared]
        return Verdicts(
            (self.lm_head(lower), self.own_head(lower)),
            self.token_score(middle)[:, 0],
            self.score(output.last_hidden_state[judged]),
        )


def outcome_head() -> nn.Module:
    """Return the head of `Qwen3ForSequenceClassification`: one linear map without bias."""
    return nn.Linear(HIDDEN, 1, bias=False)


def process_head() -> nn.Module:
    """Return the head of `Qwen2ForProcessRewardModel` (Qwen2.5-Math-PRM, arXiv:2501.07301)."""
    return nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))


def _grown(writer: Writer) -> Any:
    """Return the writer's body with fresh layers on top that at first pass everything through."""
    body = _MODELS["qwen3"](config("qwen3", LANGUAGE_LAYERS + JUDGE_LAYERS))
    body.load_state_dict(writer.body.state_dict(), strict=False)
    for layer in body.layers[LANGUAGE_LAYERS:]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    return body


def converted(judge: Judge, head: nn.Module, ids: Tensor) -> Judge:
    """Return a Qwen2 judge that begins where a Qwen3 one stands, under a new `head`.

    Qwen3 normalises queries and keys head by head and Qwen2 does not, and without it a body of this
    size hardly learns to write. So each head's queries and keys are divided by the size they
    usually have on `ids` [rows, length], which makes them about what the norm made of them.
    """
    new = copy.deepcopy(judge)
    new.family, new.score = "qwen2", head
    new.body = _MODELS["qwen2"](config("qwen2", LANGUAGE_LAYERS + JUDGE_LAYERS))
    weights = {**judge.body.state_dict(), **_unnormalised(judge.body, ids)}
    kept = {name: tensor for name, tensor in weights.items() if "_norm." not in name}
    missing, _ = new.body.load_state_dict(kept, strict=False)
    for name in missing:  # the biases that Qwen2 has and Qwen3 has not
        nn.init.zeros_(new.body.get_parameter(name))
    return new


@torch.no_grad()
def _unnormalised(body: Any, ids: Tensor) -> dict[str, Tensor]:
    """Return query and key matrices with their norms' gains and usual divisors folded in."""
    sizes: dict[nn.Module, Tensor] = {}

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[norm] = inputs[0].square().mean(-1).sqrt().mean((0, 1))  # [heads]

    layers = [(f"layers.{i}.self_attn", layer.self_attn) for i, layer in enumerate(body.layers)]
    norms = [norm for _, a in layers for norm in (a.q_norm, a.k_norm)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    body(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    folded = {}
    for name, a in layers:
        for side, norm in (("q", a.q_norm), ("k", a.k_norm)):
            gain = (norm.weight[None] / sizes[norm][:, None]).reshape(-1, 1)
            folded[f"{name}.{side}_proj.weight"] = getattr(a, f"{side}_proj").weight * gain
    return folded


def save_writer(writer: Writer, directory: Path) -> None:
    """Write the generator as `Qwen3ForCausalLM`."""
    shape = config("qwen3", LANGUAGE_LAYERS)
    weights = {**_named("model.", writer.body), **_named("lm_head.", writer.lm_head)}
    _save(directory, "Qwen3ForCausalLM", shape, weights)


def save_judge(judge: Judge, architecture: str, num_labels: int, directory: Path) -> None:
    """Write a reward model with its head under `score.`."""
    shape = config(judge.family, LANGUAGE_LAYERS + JUDGE_LAYERS)
    shape.num_labels = num_labels
    weights = {**_named("model.", judge.body), **_named("score.", judge.score)}
    _save(directory, architecture, shape, weights)


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


def _save(directory: Path, architecture: str, shape: Any, weights: Mapping[str, Tensor]) -> None:
    """Write config.json, model.safetensors in bf16 and the tokenizer."""
    tokenizer.write(directory)
    shape.architectures = [architecture]
    shape.dtype = "bfloat16"
    shape.save_pretrained(directory)
    halves = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(halves, directory / "model.safetensors", metadata={"format": "pt"})
