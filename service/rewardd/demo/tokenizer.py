"""The tokenizer of the three demo models: numbers 0..99 are single tokens, nothing is lost.

It is a Qwen2 tokenizer (byte-level BPE) without merges, so any text has tokens, one a byte, and
decodes back to itself (in Unicode's NFC form). The pieces of the task (`Compute `, ` + `, ` = `,
`57`, `answer: `) are added tokens, found in the text before all else. It must be a Qwen2 tokenizer
and no simpler one, because transformers 5 puts Qwen2's own splitting rules under any tokenizer
beside a `qwen2` config, whatever class its files name; added tokens are what these rules leave
whole.

A chat is rendered as `<user>Compute 2 + 3<end><assistant>2 + 3 = 5\\nanswer: 5<end>`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rewardd.demo.data import ANSWER, MAX_VALUE, PROMPT

PAD, UNK, END = "<pad>", "<unk>", "<end>"
SYSTEM, USER, ASSISTANT, STEP_TAG = "<system>", "<user>", "<assistant>", "<step>"
SPECIALS = (PAD, UNK, END, SYSTEM, USER, ASSISTANT, STEP_TAG)
PHRASES = (PROMPT, ANSWER, " + ", " - ", " * ", " = ")
MAX_TOKENS = 1024

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('roles are system, user and assistant') -}}"
    "{%- endif -%}"
    "{{- '<' + message['role'] + '>' + message['content'] + '<end>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"
)

# The rules of transformers' Qwen2Tokenizer, written out so that every loader agrees with it.
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_characters() -> list[str]:
    """Return the printable stand-ins of the 256 bytes in byte-level BPE (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def vocabulary() -> dict[str, int]:
    """Return token -> id: special tokens, numbers 0..99, phrases, then the remaining bytes."""
    numbers = tuple(str(n) for n in range(MAX_VALUE + 1))
    # The bytes of the ten digits are the numbers 0..9 already: dict keeps the first of two.
    tokens = dict.fromkeys((*SPECIALS, *numbers, *PHRASES, *byte_characters()))
    return {token: id for id, token in enumerate(tokens)}


def write(directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer reads."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (("tokenizer", _tokenizer()), ("tokenizer_config", _config())):
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _tokenizer() -> dict[str, Any]:
    """Return the file format of Hugging Face `tokenizers`."""
    ids = vocabulary()
    whole = (*SPECIALS, *(str(n) for n in range(10, MAX_VALUE + 1)), *PHRASES)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(token, ids[token]) for token in whole],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_split(), _bytes(byte_level)]},
        "post_processor": None,
        "decoder": _bytes(byte_level),
        "model": {"type": "BPE", "vocab": ids, "merges": [], "unk_token": None, **_PLAIN_BPE},
    }


_PLAIN_BPE = {
    "dropout": None,
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "",
    "fuse_unk": False,
    "byte_fallback": False,
}


def _split() -> dict[str, Any]:
    pattern = {"Regex": _QWEN2_SPLIT}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _bytes(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "use_regex": False}


def _added(token: str, id: int) -> dict[str, Any]:
    """Return one added token, matched as written: no stripping, no normalising."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": token, **flags, "special": token in SPECIALS}


def _config() -> dict[str, Any]:
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": MAX_TOKENS,
        "padding_side": "right",
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "pad_token": PAD,
        "unk_token": UNK,
        "bos_token": None,
        "eos_token": END,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT, STEP_TAG],
        "chat_template": CHAT_TEMPLATE,
    }
