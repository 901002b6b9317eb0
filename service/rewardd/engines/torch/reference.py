"""The values transformers gives: fp32, eager attention, one sequence at a time, its public API.

This is what served scores are measured against, so nothing of the engine is used: neither its
rendering, nor its forward, nor its heads. A head transformers has no class for is computed here
from its tensors, in the words of the code that trained it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from torch import Tensor
from torch.nn.functional import linear, log_softmax, relu

from rewardd.engines.manifest import Manifest
from rewardd.engines.torch.detect import load_tokenizer
from rewardd.engines.torch.directory import Directory, read_directory
from rewardd.engines.torch.quiet import quiet
from rewardd.errors import StartRefused
from rewardd_types import Group, Message, Response

_MARK = "\ue000\ue001"  # private characters: stands for the reply while a template is cut open
_PLAIN = {"dtype": torch.float32, "attn_implementation": "eager"}


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one response reads like: the model's inputs, step tag positions, the reply's span."""

    inputs: dict[str, Tensor]
    tags: list[int] = field(default_factory=list)
    reply: tuple[int, int] = (0, 0)


def reference_values(path: Path, manifest: Manifest, group: Group) -> list[list[float]]:
    """One list a response: the logits (classify), the rows of logits at the step tags one after
    the other (token_classify), or the log-probabilities of the reply's tokens (lm)."""
    return Reference(path, manifest).values(group)


class Reference:
    """A model as transformers loads and runs it, in fp32 on the CPU."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        directory = read_directory(path)
        self._manifest = manifest
        self._tokenizer: Any = load_tokenizer(directory)
        with quiet():
            self._rows = _ROWS[manifest.head](directory, manifest)

    @torch.inference_mode()
    def values(self, group: Group) -> list[list[float]]:
        """As `reference_values`. StartRefused when a value is not finite."""
        found = [self._read(self.tokens(group, response)) for response in group.responses]
        if not all(bool(torch.isfinite(values).all()) for values in found):
            raise StartRefused(f"{self._manifest.model}: transformers itself gives NaN or infinity")
        return [[float(value) for value in values] for values in found]

    def _read(self, tokens: Tokens) -> Tensor:
        rows = self._rows(tokens.inputs)
        if self._manifest.kind == "classify":
            return rows[-1]
        if self._manifest.kind == "token_classify":
            return rows[tokens.tags].flatten()
        first, end = tokens.reply
        chosen = tokens.inputs["input_ids"][0, first:end, None]
        return log_softmax(rows[first - 1 : end - 1], dim=-1).gather(1, chosen)[:, 0]

    def tokens(self, group: Group, response: Response) -> Tokens:
        """Render one response of a group the way the field's scripts do."""
        if self._manifest.pairs:
            prompt, reply = group.prompt or group.text, response.content or response.text
            return Tokens(dict(self._tokenizer(prompt, reply, return_tensors="pt")))
        if self._manifest.kind == "token_classify":
            return self._stepwise(group, response)
        if group.token_ids is not None or response.token_ids is not None:
            before = self._prompt_ids(group)
            return _plain(before, response.token_ids or self._ids(response.text or ""))
        before_text, reply, after = self._text(group, response)
        return self._spanned(before_text, reply, after)

    def _spanned(self, before: str, reply: str, after: str) -> Tokens:
        coded = self._tokenizer(
            before + reply + after,
            add_special_tokens=not self._manifest.causal,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        spans = coded.pop("offset_mapping")[0].tolist()
        first, end = len(before), len(before) + len(reply)
        inside = [at for at, (a, b) in enumerate(spans) if b > first and a < end]
        inputs, added = self._with_bos(dict(coded))
        if not inside:
            return Tokens(inputs)
        return Tokens(inputs, reply=(inside[0] + added, inside[-1] + 1 + added))

    def _stepwise(self, group: Group, response: Response) -> Tokens:
        """As the cards of process reward models: each step, then the tag; read at the tags."""
        tag = self._manifest.step_tag
        assert tag is not None
        steps = response.steps if response.steps is not None else [response.content or ""]
        before, _, after = self._text(group, Response(content=_MARK))
        ids = self._ids(before)
        tags = []
        for step in steps:
            ids += self._ids(step)
            tags.append(len(ids))
            ids.append(tag.token_id)
        inputs, added = self._with_bos(_plain(ids, self._ids(after)).inputs)
        return Tokens(inputs, tags=[at + added for at in tags])

    def _text(self, group: Group, response: Response) -> tuple[str, str, str]:
        """Prompt, reply, and what the template puts behind it."""
        reply = response.content if response.content is not None else response.text or ""
        if group.text is not None:
            return group.text, reply, ""
        messages = group.messages or [Message("user", group.prompt or "")]
        if response.text is not None:
            return self._template(messages, ask=True), reply, ""
        if response.messages is not None:
            return "", self._template([*messages, *response.messages]), ""
        marked = self._template([*messages, Message("assistant", _MARK)])
        before, _, after = marked.partition(_MARK)
        whole = self._template([*messages, Message("assistant", reply)])
        for words in (reply, reply.strip()):  # many templates trim
            if before + words + after == whole:
                return before, words, after
        return "", whole, ""  # a template that hides, splits or changes the reply

    def _template(self, messages: list[Message], *, ask: bool = False) -> str:
        text: str = self._tokenizer.apply_chat_template(
            msgspec.to_builtins(messages),
            chat_template=self._manifest.chat_template,
            tokenize=False,
            add_generation_prompt=ask,
        )
        return text

    def _prompt_ids(self, group: Group) -> list[int]:
        if group.token_ids is not None:
            return list(group.token_ids)
        if group.text is not None:
            text = group.text
        else:
            messages = group.messages or [Message("user", group.prompt or "")]
            text = self._template(messages, ask=True)
        inputs, _ = self._with_bos(_plain(self._ids(text), []).inputs)
        ids: list[int] = inputs["input_ids"][0].tolist()
        return ids

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _with_bos(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
        ids, bos = inputs["input_ids"], self._tokenizer.bos_token_id
        if not self._manifest.begins_with_bos or (ids.numel() and int(ids[0, 0]) == bos):
            return inputs, 0
        return _plain([bos], ids[0].tolist()).inputs, 1


def _plain(before: list[int], after: list[int]) -> Tokens:
    ids = torch.tensor([[*before, *after]], dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Tokens(inputs, reply=(len(before), len(before) + len(after)))


Rows = Callable[[dict[str, Tensor]], Tensor]
"""Model inputs -> values [tokens, labels]; [1, labels] where the model pools itself."""


def _load(auto: Any, directory: Directory, **options: Any) -> Any:
    # False is the default too, but unset, transformers asks on the terminal.
    return auto.from_pretrained(directory.path, trust_remote_code=False, **_PLAIN, **options).eval()


def _sequence(directory: Directory, manifest: Manifest) -> Rows:
    return _pooled(_load(transformers.AutoModelForSequenceClassification, directory))


def _pooled(model: Any) -> Rows:
    """The model's own pooling, at the last token.

    Its rule, the last token that is not padding, picks another one where a reply ends in the
    pad token; a single sequence has no padding.
    """
    model.config.pad_token_id = model.config.pad_token_id if _is_encoder(model) else None
    return lambda inputs: model(**inputs).logits


def _is_encoder(model: Any) -> bool:
    return not hasattr(model, "score")


def _adapted(directory: Directory, manifest: Manifest) -> Rows:
    from peft import PeftModel

    assert directory.base is not None
    base = _load(
        transformers.AutoModelForSequenceClassification,
        directory.base,
        num_labels=manifest.num_labels,
    )
    model = PeftModel.from_pretrained(base, directory.path).eval()
    base.config.pad_token_id = None
    return lambda inputs: model(**inputs).logits


def _token_classification(directory: Directory, manifest: Manifest) -> Rows:
    model = _load(transformers.AutoModelForTokenClassification, directory)
    return lambda inputs: model(**inputs).logits[0]


def _causal(directory: Directory, manifest: Manifest) -> Rows:
    model = _load(transformers.AutoModelForCausalLM, directory)
    return lambda inputs: model(**inputs).logits[0]


def _body(directory: Directory) -> Rows:
    wrapped = any(name.startswith("pretrained_model.") for name in directory.tensors)
    mapping = {r"^pretrained_model\.": ""} if wrapped else None
    model = _load(transformers.AutoModel, directory, key_mapping=mapping)
    return lambda inputs: model(**inputs).last_hidden_state[0]


def _two_layer(directory: Directory, manifest: Manifest) -> Rows:
    """Qwen's remote code: `nn.Sequential(Linear(h, h), ReLU(), Linear(h, labels))`."""
    body = _body(directory)
    first, second = (_weights(directory, f"score.{index}") for index in (0, 2))
    return lambda inputs: linear(relu(linear(body(inputs), *first)), *second)


def _value_head(directory: Directory, manifest: Manifest) -> Rows:
    """TRL's ValueHead: `summary(hidden)`, in fp32."""
    body = _body(directory)
    name = "v_head.summary" if "v_head.summary.weight" in directory.tensors else "v_head"
    weights = _weights(directory, name)
    return lambda inputs: linear(body(inputs), *weights)


def _openrlhf(directory: Directory, manifest: Manifest) -> Rows:
    """OpenRLHF: `(value_head(hidden) - mean) / std` if the config normalises."""
    body = _body(directory)
    weights = _weights(directory, directory.config.get("value_head_prefix") or "score")
    return lambda inputs: (linear(body(inputs), *weights) - manifest.mean) / manifest.std


def _weights(directory: Directory, prefix: str) -> Sequence[Tensor]:
    names = [f"{prefix}.weight", f"{prefix}.bias"]
    return [directory.tensor(name).float() for name in names if name in directory.tensors]


_ROWS: dict[str, Callable[[Directory, Manifest], Rows]] = {
    "sequence_classification": _sequence,
    "encoder": _sequence,
    "peft_score": _adapted,
    "token_classification": _token_classification,
    "lm": _causal,
    "two_layer": _two_layer,
    "value_head": _value_head,
    "openrlhf": _openrlhf,
}
