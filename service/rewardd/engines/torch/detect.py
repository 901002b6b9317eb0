"""What a manifest says of a model, found out from its files: no weights are loaded, no code run."""

import hashlib
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoTokenizer

from rewardd.engines.manifest import Manifest, StepTag
from rewardd.engines.torch.directory import (
    Directory,
    model_name,
    read_directory,
    read_json,
    resolve_model,
    revision_of,
)
from rewardd.engines.torch.heads import (
    ENCODERS,
    Layout,
    layout_of,
    normalisation_of,
    num_labels_of,
)
from rewardd.engines.torch.quiet import quiet
from rewardd.errors import StartRefused

__all__ = ["detect", "load_config", "load_tokenizer", "resolve_model", "tokenizer_directory"]

_SANE_LENGTH = 10_000_000  # tokenizers without a limit say 1e30
_UNBOUNDED_LENGTH = 2048  # what ALiBi models were trained on; they state no limit
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")
# Skywork-o1-PRM reads BOS if there is one, the problem, a newline, and then the bare steps; the
# template beside its weights is its base model's.
_SKYWORK_TEMPLATE = (
    "{{- bos_token or '' -}}{%- for message in messages -%}{{- message['content'] -}}"
    "{%- if message['role'] != 'assistant' -%}{{- '\\n' -}}{%- endif -%}{%- endfor -%}"
)
_STEP_TAGS = ("<extra_0>", "<step>")
_CHATS = (
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    [{"role": "user", "content": "a"}],
)


def detect(path: Path) -> Manifest:
    """The manifest of the model in `path`, without probes.

    StartRefused names what is missing or unknown: no safetensors, a head of no known layout, code
    that would have to be run, a process model whose step tag is not stated.
    """
    directory = read_directory(path)
    layout = layout_of(directory)
    config, tokenizer = load_config(directory), load_tokenizer(directory)
    causal = directory.model_type not in ENCODERS
    kind = layout.kind(directory)
    is_skywork = layout.name == "value_head" and kind == "token_classify"
    template = _SKYWORK_TEMPLATE if is_skywork else _template(tokenizer)
    labels = num_labels_of(directory, layout)
    mean, std = normalisation_of(directory, layout)
    return Manifest(
        model=model_name(path),
        revision=revision_of(directory),
        architecture=directory.architecture,
        kind=kind,
        head=layout.name,
        num_labels=labels or (0 if kind == "lm" else int(config.num_labels)),
        max_length=_max_length(directory, config, tokenizer),
        causal=causal,
        pairs=not causal and template is None,
        begins_with_bos=causal and _begins_with_bos(tokenizer, template),
        chat_template=template,
        template_hash=template and hashlib.sha256(template.encode()).hexdigest()[:12],
        step_tag=_step_tag(directory, layout, tokenizer, labels) if "token" in kind else None,
        mean=mean,
        std=std,
    )


def load_config(directory: Directory) -> Any:
    """The transformers configuration, by a class of transformers itself, whatever auto_map says."""
    body = directory.body
    if "quantization_config" in body.config:
        raise StartRefused(
            f"{body.path}: quantised weights are read by the vllm engine only; serve the original"
        )
    if body.model_type not in CONFIG_MAPPING:
        raise StartRefused(
            f"{body.path}: transformers has no model type {body.model_type!r} of its own, and code"
            " from a checkpoint is never run"
        )
    try:
        with quiet():
            return CONFIG_MAPPING[body.model_type].from_pretrained(body.path)
    except Exception as error:  # whatever a configuration class finds wrong with a file
        raise StartRefused(f"{body.path}/config.json: {error}") from error


def tokenizer_directory(directory: Directory) -> Path:
    """Where the tokenizer lies: an adapter may carry its own, else it uses its base's."""
    own = directory.path
    if directory.base is None or (own / "tokenizer_config.json").is_file():
        return own
    return directory.base.path


def load_tokenizer(directory: Directory) -> Any:
    """The tokenizer, by a class of transformers itself; StartRefused when there is none."""
    path = tokenizer_directory(directory)
    if not (path / "tokenizer.json").is_file():
        settings = path / "tokenizer_config.json"
        if settings.is_file() and "auto_map" in read_json(settings):
            raise StartRefused(
                f"{path}: its tokenizer is code of its own (auto_map), which is never run;"
                " save it as tokenizer.json"
            )
    try:
        # Stated, though it is the default: unset, transformers asks on the terminal.
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # missing or damaged files, in as many forms as tokenizers
        raise StartRefused(f"{path}: its tokenizer cannot be read: {error}") from error


def _template(tokenizer: Any) -> str | None:
    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:  # several named templates, and none is the default
        raise StartRefused(f"{tokenizer.name_or_path}: {error}") from error


def _begins_with_bos(tokenizer: Any, template: str | None) -> bool:
    """Whether the usual path puts a BOS first: the template, or without one the tokenizer."""
    if tokenizer.bos_token_id is None:
        return False
    if template is None:
        return bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])
    for chat in _CHATS:
        try:
            text = tokenizer.apply_chat_template(chat, tokenize=False)
        except Exception:  # noqa: S112 - a template may refuse a conversation in any way
            continue
        return bool(str(text).startswith(tokenizer.bos_token))
    return False


def _max_length(directory: Directory, config: Any, tokenizer: Any) -> int:
    stated = [getattr(config, name, None) for name in _LENGTHS]
    limits = [int(length) for length in stated if isinstance(length, int) and length > 0][:1]
    if directory.model_type in _OFFSET_POSITIONS:
        # RoBERTa counts positions from the pad id + 1 on.
        limits = [length - int(config.pad_token_id) - 1 for length in limits]
    if 0 < tokenizer.model_max_length < _SANE_LENGTH:
        limits.append(int(tokenizer.model_max_length))
    return min(limits, default=_UNBOUNDED_LENGTH)


def _step_tag(directory: Directory, layout: Layout, tokenizer: Any, labels: int) -> StepTag:
    """The tag by its text, never by a remembered id: vocabularies differ between releases."""
    positive = 1 if labels > 1 else 0
    config = directory.config
    if isinstance(config.get("step_tag_id"), int) and "step_tag" not in config:
        token_id = int(config["step_tag_id"])
        return StepTag(str(tokenizer.decode([token_id])), token_id, positive)
    vocabulary = tokenizer.get_vocab()
    tags = [tag for tag in _STEP_TAGS if tag in vocabulary]
    if layout.name == "value_head":
        tags = ["\n"]  # Skywork-o1-PRM ends every step with a newline
    tag = str(config["step_tag"]) if "step_tag" in config else next(iter(tags), None)
    ids = [] if tag is None else tokenizer(tag, add_special_tokens=False)["input_ids"]
    if tag is None or len(ids) != 1:
        raise StartRefused(
            f"{directory.path}: the step tag of this process model is not known"
            f"{'' if tag is None else f' ({tag!r} is {len(ids)} tokens)'}: set `step_tag` in its"
            " manifest, or in config.json"
        )
    return StepTag(tag, int(ids[0]), positive)
