"""`rewardd check`: the expected values of a model, written into its manifest.

A worker compares itself with them at start. The probes are ordinary conversations chosen to go
wrong where models do: replies that are prefixes of one another, text outside ASCII, several turns,
and a reply longer than the usual windows of tests.
"""

from pathlib import Path

import msgspec

from rewardd.engines.manifest import Manifest, Probe
from rewardd.engines.torch.detect import detect
from rewardd.engines.torch.reference import Reference
from rewardd_types import Group, Message, Response

_QUESTION = "A box holds 12 apples. Four friends share them equally. How many does each get?"
_ANSWERS = ("3", "3 apples each.", "3 apples each. Check: 4 * 3 = 12.", "Each gets 4.5 apples.")
_ABROAD = "Übersetze „naïve café“ ins Chinesische. 🙂"
_TURNS = ("Name a prime number.", "9", "Are you sure?", "No: 9 = 3 * 3. Take 7 instead.")
_LONG = "We divide step by step, and write down what is left after each step. "
_LONGEST_REPEATS = 20


def check_model(path: Path, manifest: Manifest | None = None) -> Manifest:
    """The manifest of the model in `path` (detected unless given) with its probes filled in.

    Loads the model once in fp32 on the CPU. StartRefused as `detect`, and when transformers
    itself gives no finite values.
    """
    manifest = manifest or detect(path)
    reference = Reference(path, manifest)
    probes = [Probe(group, reference.values(group)) for group in probe_groups(manifest)]
    return msgspec.structs.replace(manifest, probes=probes)


def probe_groups(manifest: Manifest) -> list[Group]:
    """Groups in the form the model reads: chats, pairs, steps or plain text."""
    if manifest.kind == "token_classify":
        return [_stepwise(group) for group in _chats(manifest)]
    if manifest.kind == "lm" or (manifest.chat_template is None and not manifest.pairs):
        return [_as_text(group) for group in _chats(manifest)]
    return [*_chats(manifest), *([] if manifest.pairs else [_conversation()])]


def _chats(manifest: Manifest) -> list[Group]:
    long = _LONG * max(1, min(_LONGEST_REPEATS, manifest.max_length // 256))
    return [
        Group([Response(content=answer) for answer in _ANSWERS], prompt=_QUESTION),
        Group([Response(content="天真的咖啡馆 ☕"), Response(content="?")], prompt=_ABROAD),
        Group([Response(content=long), Response(content=long + "So 3.")], prompt=_QUESTION),
    ]


def _conversation() -> Group:
    *before, last = [
        Message("user" if index % 2 == 0 else "assistant", text)
        for index, text in enumerate(_TURNS)
    ]
    return Group([Response(content=last.content), Response(content="Yes.")], messages=before)


def _stepwise(group: Group) -> Group:
    """Each reply in steps, at the ends of its sentences."""
    steps = [_sentences(response.content or "") for response in group.responses]
    responses = [Response(steps=each) for each in steps]
    return msgspec.structs.replace(group, responses=responses)


def _sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in text.split(". ") if sentence.strip()]


def _as_text(group: Group) -> Group:
    responses = [Response(text=response.content) for response in group.responses]
    return Group(responses, text=f"{group.prompt}\n")
