"""From an Input to token ids, by the model's manifest: template, BOS, step tag, length.

Every sequence a model reads is made here, once, so that all engines read the same tokens. Text is
tokenised as a whole, as the model's authors do; steps are tokenised one by one and followed by the
step tag's id, so that no merge can swallow a tag, and a tag written in a step stays text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rewardd.core.calls import Input, Prompt, Reply
from rewardd.engines.manifest import Manifest
from rewardd.errors import EngineError, InputTooLong, InvalidRequest, RewarddError, UnsupportedCall
from rewardd_types import Message

_MARK = "\ue000\ue001"  # private characters, to stand where the template puts a reply


@dataclass(frozen=True, slots=True)
class Rendered:
    """`token_ids` as the model reads them.

    `reply` is the span of the reply's own tokens (start, end), None where the template hides it;
    `tags` are the positions of the step tags; `type_ids` mark the segments of an encoder's pair.
    """

    token_ids: list[int]
    reply: tuple[int, int] | None = None
    tags: list[int] = field(default_factory=list)
    type_ids: list[int] | None = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Text:
    """Text to be tokenised as one piece; `reply` is the reply's span in characters."""

    text: str
    reply: tuple[int, int] | None = None


class Renderer:
    """Renders and tokenises for one model, whose tokenizer lies in `path`.

    Not thread-safe: tokenizers keep state.
    """

    def __init__(self, path: Path, manifest: Manifest, vocabulary: int) -> None:
        self.manifest = manifest
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        self._literal: Any = AutoTokenizer.from_pretrained(
            path, trust_remote_code=False, split_special_tokens=True
        )
        self._vocabulary = vocabulary

    def render(self, inputs: Sequence[Input], truncate: bool) -> list[Rendered | RewarddError]:
        """One Rendered an input, or the error that stands in its way."""
        return [self._attempt(input_, truncate) for input_ in inputs]

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids, special tokens included."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=False))

    def label_id(self, label: str) -> int:
        """The one token a label stands for; InvalidRequest when it is several."""
        ids = self._encode(label)
        if len(ids) != 1:
            raise InvalidRequest(f"the label {label!r} is {len(ids)} tokens of this model; use one")
        return ids[0]

    def _attempt(self, input_: Input, truncate: bool) -> Rendered | RewarddError:
        try:
            rendered = self._render(input_, locate=truncate or self.manifest.kind == "lm")
            _check_ids(rendered.token_ids, self._vocabulary)
            return _bounded(rendered, self.manifest, truncate)
        except RewarddError as error:
            return error
        except Exception as error:  # a tokenizer that chokes on one input must not fail the others
            return EngineError(f"the tokenizer failed: {type(error).__name__}: {error}")

    def _render(self, input_: Input, *, locate: bool) -> Rendered:
        """`locate` says whether anybody will ask where in a template the reply stands."""
        if self.manifest.pairs:
            return self._render_pair(input_)
        reply = input_.reply
        if reply is not None and reply.steps is not None:
            return self._render_steps(input_.prompt, reply.steps)
        if input_.prompt.token_ids is not None or (reply and reply.token_ids is not None):
            return self._render_ids(input_.prompt, reply)
        return self._render_text(self._text(input_.prompt, reply, locate=locate))

    def _render_pair(self, input_: Input) -> Rendered:
        """Encoders without a template read prompt and reply as two segments."""
        prompt, reply = _plain_prompt(input_.prompt), _plain_reply(input_.reply)
        coded = self.tokenizer(prompt, reply)  # with type ids where the model has such an input
        types = coded.get("token_type_ids")
        return Rendered(list(coded["input_ids"]), type_ids=None if types is None else list(types))

    def _render_steps(self, prompt: Prompt, steps: list[str]) -> Rendered:
        tag = self.manifest.step_tag
        if tag is None:
            raise UnsupportedCall("this model has no step tag: it is no process reward model")
        ids, tags = self._prompt_ids(prompt), []
        start = len(ids)
        for step in steps:
            ids.extend(self._literal(step, add_special_tokens=False)["input_ids"])
            tags.append(len(ids))
            ids.append(tag.token_id)
        return Rendered(ids, reply=(start, len(ids)), tags=tags)

    def _render_ids(self, prompt: Prompt, reply: Reply | None) -> Rendered:
        ids = self._prompt_ids(prompt)
        start = len(ids)
        if reply is not None:
            ids += self._encode(_words(reply)) if reply.token_ids is None else reply.token_ids
        return Rendered(ids, reply=(start, len(ids)))

    def _render_text(self, piece: _Text) -> Rendered:
        coded = self.tokenizer(
            piece.text, add_special_tokens=not self.manifest.causal, return_offsets_mapping=True
        )
        ids, added = self._with_bos(list(coded["input_ids"]))
        if piece.reply is None:
            return Rendered(ids)
        first, last = piece.reply
        inside = [i for i, (a, b) in enumerate(coded["offset_mapping"]) if b > first and a < last]
        if not inside:
            return Rendered(ids, reply=(len(ids), len(ids)))
        return Rendered(ids, reply=(inside[0] + added, inside[-1] + 1 + added))

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if prompt.token_ids is not None:
            return list(prompt.token_ids)
        return self._with_bos(self._encode(self._text(prompt, None, locate=False).text))[0]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _with_bos(self, ids: list[int]) -> tuple[list[int], int]:
        """Exactly one BOS where the manifest wants one; how many tokens were put in front."""
        bos = self.tokenizer.bos_token_id
        if not self.manifest.begins_with_bos or ids[:1] == [bos]:
            return ids, 0
        return [bos, *ids], 1

    def _text(self, prompt: Prompt, reply: Reply | None, *, locate: bool) -> _Text:
        if prompt.messages is None:
            before = prompt.text or ""
            if reply is None:
                return _Text(before)
            words = _words(reply)
            return _Text(before + words, (len(before), len(before) + len(words)))
        if reply is None or reply.text is not None:
            before = self._template(prompt.messages, ask=True)
            words = "" if reply is None else reply.text or ""
            return _Text(before + words, (len(before), len(before) + len(words)))
        return self._conversation(prompt.messages, reply, locate)

    def _conversation(self, messages: list[Message], reply: Reply, locate: bool) -> _Text:
        if reply.messages is not None:
            return _Text(self._template([*messages, *reply.messages], ask=False))
        content = reply.content or ""
        whole = self._template([*messages, Message("assistant", content)], ask=False)
        return _Text(whole, self._span(messages, content, whole) if locate else None)

    def _span(self, messages: list[Message], content: str, whole: str) -> tuple[int, int] | None:
        """Where the template put the content, or None if it rewrote it.

        Found by what stands around a mark in its place. Searching for the content itself would
        find "think" in a `<think>` that the template adds.
        """
        marked = self._template([*messages, Message("assistant", _MARK)], ask=False)
        before, found, after = marked.partition(_MARK)
        if found and whole.startswith(before) and whole.endswith(after):
            span = len(before), len(whole) - len(after)
            if span[0] <= span[1] and whole[slice(*span)].strip() == content.strip():
                return span
        opening = self._template(messages, ask=True)  # a reply with its own `<think>` part
        if whole.startswith(opening + content.strip()):
            return len(opening), len(opening) + len(content.strip())
        return None

    def _template(self, messages: list[Message], *, ask: bool) -> str:
        if self.manifest.chat_template is None:
            raise UnsupportedCall(
                "this model has no chat template: send `text` or `token_ids`, or put a"
                " `chat_template` into its manifest"
            )
        turns = [
            {
                key: value
                for key in message.__struct_fields__
                if (value := getattr(message, key)) is not None
            }
            for message in messages
        ]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns,
                    chat_template=self.manifest.chat_template,
                    tokenize=False,
                    add_generation_prompt=ask,
                )
            )
        except Exception as error:  # templates raise what they like at conversations they refuse
            raise InvalidRequest(
                f"the model's chat template refused the messages: {error}"
            ) from error


def _words(reply: Reply) -> str:
    if reply.messages is not None:
        raise UnsupportedCall("`text` and `token_ids` prompts take no `messages` response")
    return reply.content if reply.content is not None else reply.text or ""


def _plain_prompt(prompt: Prompt) -> str:
    if prompt.messages is not None:
        return "\n".join(message.content for message in prompt.messages)
    if prompt.text is None:
        raise UnsupportedCall("this encoder reads words, not token ids")
    return prompt.text


def _plain_reply(reply: Reply | None) -> str | None:
    if reply is None:
        return None
    if reply.messages is not None:
        return "\n".join(message.content for message in reply.messages)
    if reply.token_ids is not None or reply.steps is not None:
        raise UnsupportedCall("this encoder reads words, neither token ids nor steps")
    return reply.content if reply.content is not None else reply.text


def _check_ids(token_ids: list[int], vocabulary: int) -> None:
    if not token_ids:
        raise InvalidRequest("the input renders to no tokens at all")
    for token_id in (min(token_ids), max(token_ids)):
        if not 0 <= token_id < vocabulary:
            raise InvalidRequest(f"token id {token_id} is not in the vocabulary ({vocabulary})")


def _bounded(rendered: Rendered, manifest: Manifest, truncate: bool) -> Rendered:
    """The sequence within the model's length: an error, or cut where the caller allowed it."""
    over = len(rendered.token_ids) - manifest.max_length
    if over <= 0:
        return rendered
    length = f"{len(rendered.token_ids)} tokens; this model reads {manifest.max_length}"
    if not manifest.causal:
        raise InputTooLong(f"{length}, and an encoder's input is not cut")
    if not truncate:
        raise InputTooLong(f"{length} (send `truncate: true` to have the start of the prompt cut)")
    keep = int(manifest.begins_with_bos)
    if rendered.reply is not None and keep + over > rendered.reply[0]:
        raise InputTooLong(f"{length}, and cutting the whole prompt would not be enough")
    return Rendered(
        rendered.token_ids[:keep] + rendered.token_ids[keep + over :],
        reply=rendered.reply and (rendered.reply[0] - over, rendered.reply[1] - over),
        tags=[tag - over for tag in rendered.tags],
        dropped=over,
    )
