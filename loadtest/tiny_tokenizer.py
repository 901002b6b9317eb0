"""A lossless tokenizer for the tiny models: one token a byte, and a dozen special tokens."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIALS = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<cls>",
    "<sep>",
    "<step>",
    "<extra_0>",
    "<|im_start|>",
    "<|im_end|>",
)
VOCABULARY = 272  # of the embedding: nine specials, 256 bytes, and a few rows never used

_CHAT = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
TEMPLATES = {"chat": _CHAT, "bos": "{{- bos_token -}}" + _CHAT}
_AROUND = {
    "bos": ("<bos> $A", "<bos> $A $B:1"),
    "encoder": ("<cls> $A <sep>", "<cls> $A <sep> $B:1 <sep>:1"),
    "one_type_encoder": ("<cls> $A <sep>", "<cls> $A <sep> <sep> $B <sep>"),
}
_INPUTS = ["input_ids", "attention_mask"]


def write_tokenizer(directory: Path, kind: str) -> None:
    """Write tokenizer.json and its configuration.

    Kinds: `chat` (no BOS anywhere), `bos` (template and tokenizer each add one, the usual trap),
    `encoder` (no template; pairs as <cls> A <sep> B <sep>), `one_type_encoder` (the same without
    segment types, as RoBERTa and ModernBERT).
    """
    encodes = "encoder" in kind
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(kind),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        cls_token="<cls>",
        sep_token="<sep>",
        extra_special_tokens=["<step>", "<extra_0>", "<|im_start|>", "<|im_end|>"],
        chat_template=TEMPLATES.get(kind),
        model_max_length=512 if encodes else 1024,
        model_input_names=["token_type_ids", *_INPUTS] if kind == "encoder" else _INPUTS,
    )
    tokenizer.save_pretrained(directory)


def _tokenizer(kind: str) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    if kind in _AROUND:
        single, pair = _AROUND[kind]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single,
            pair=pair,
            special_tokens=[(token, vocabulary[token]) for token in ("<bos>", "<cls>", "<sep>")],
        )
    return tokenizer
