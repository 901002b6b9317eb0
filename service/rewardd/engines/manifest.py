"""The manifest: everything that decides how one model is read, written down once and checked.

It is detected when a model is first served (`rewardd serve --model`) or by `rewardd check`, kept as
JSON beside the model or in the data directory, and may be edited: what it says wins over detection.
"""

import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from rewardd.errors import StartRefused
from rewardd_types import Group

HeadKind = Literal["classify", "token_classify", "lm"]
"""What the model gives: logits for the sequence, for each step tag, or for the next token."""


class Probe(Struct, frozen=True, forbid_unknown_fields=True):
    """A group and the values transformers gives it (fp32, eager, batch 1), one list a response."""

    group: Group
    values: list[list[float]]


class StepTag(Struct, frozen=True, forbid_unknown_fields=True):
    """How a process reward model marks the end of a step, and which class means `right`."""

    token: str
    token_id: int
    positive: int = 1


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """How to read one model.

    `begins_with_bos` is the policy for the first token of every sequence: exactly one BOS, or
    none, whatever template and tokenizer would do together. `pairs` is true for encoders that read
    prompt and response as two segments. `mean` and `std` are a value head's stored normalisation.
    `head` names the reader in `engines.torch.heads`.
    """

    model: str
    revision: str
    architecture: str
    kind: HeadKind
    head: str
    num_labels: int
    max_length: int
    causal: bool = True
    pairs: bool = False
    begins_with_bos: bool = False
    chat_template: str | None = None
    template_hash: str | None = None
    step_tag: StepTag | None = None
    mean: float = 0.0
    std: float = 1.0
    probes: list[Probe] = []


def read_manifest(path: Path) -> Manifest:
    """Read and validate a manifest; StartRefused names the file and the field."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StartRefused(f"{path}: {error}") from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest so that a person can read and edit it; readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    draft.replace(path)
