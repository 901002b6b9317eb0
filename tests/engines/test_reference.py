"""The reference itself: transformers' plain call, and expected values for manifests."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
import transformers

from loadtest import tiny_models
from loadtest.tiny_tokenizer import VOCABULARY
from rewardd.core.calls import Input, Reply
from rewardd.core.chat import input_of, prompt_of
from rewardd.engines.manifest import Manifest, read_manifest, write_manifest
from rewardd.engines.rendering import Rendered, Renderer
from rewardd.engines.torch.check import check_model, probe_groups
from rewardd.engines.torch.detect import detect
from rewardd.engines.torch.directory import read_directory
from rewardd.engines.torch.quiet import quiet
from rewardd.engines.torch.reference import Reference, reference_values
from rewardd.errors import StartRefused
from rewardd_types import Group, Message, Response

Tiny = Callable[[str], Path]
CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "It is four."}]
GROUP = Group([Response(content="It is four.")], prompt="2 + 2?")


@pytest.mark.parametrize("name", ["qwen3", "llama", "gemma2", "gpt_oss", "falcon_alibi"])
def test_decoders_as_their_cards_score(tiny: Tiny, name: str) -> None:
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny(name))
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            tiny(name), attn_implementation="eager", dtype=torch.float32
        )
    inputs = tokenizer.apply_chat_template(CHAT, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        expected = model(**inputs).logits.tolist()
    assert reference_values(tiny(name), detect(tiny(name)), GROUP) == expected


def test_encoders_as_cross_encoders_score(tiny: Tiny) -> None:
    with quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            tiny("bert"), attn_implementation="eager"
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny("bert"))
    with torch.no_grad():
        expected = model(**tokenizer("2 + 2?", "It is four.", return_tensors="pt")).logits.tolist()
    assert reference_values(tiny("bert"), detect(tiny("bert")), GROUP) == expected


def test_process_rewards_at_the_tags_of_the_joined_text(tiny: Tiny) -> None:
    """The recipe of the card of Qwen2.5-Math-PRM: join by the tag, render, mask by the tag."""
    path, steps = tiny("qwen2_prm"), ["First 2 + 2.", "That is four.", ""]
    content = "<extra_0>".join(steps) + "<extra_0>"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    chat = [CHAT[0], {"role": "assistant", "content": content}]
    ids = tokenizer.apply_chat_template(chat, return_dict=False)

    manifest = detect(path)
    reference = Reference(path, manifest)
    group = Group([Response(steps=steps)], prompt="2 + 2?")
    tokens = reference.tokens(group, group.responses[0])
    assert tokens.inputs["input_ids"][0].tolist() == ids
    assert tokens.tags == [at for at, token in enumerate(ids) if token == 6]
    assert [len(values) for values in reference.values(group)] == [2 * len(steps)]


def test_a_reply_that_ends_in_the_pad_token_is_read_at_its_end(tiny: Tiny) -> None:
    """transformers looks for the last token that is not padding: the wrong one here (T4)."""
    manifest = detect(tiny("qwen3"))
    ids = [20, 30, 40, 0]
    group = Group([Response(token_ids=ids), Response(token_ids=ids[:-1])], token_ids=[9, 10])
    padded, plain = reference_values(tiny("qwen3"), manifest, group)
    assert padded != plain


def test_log_probabilities_of_the_reply_alone(tiny: Tiny) -> None:
    manifest = detect(tiny("qwen3_lm"))
    group = Group([Response(text="four"), Response(text="")], text="2 + 2 = ")
    four, nothing = reference_values(tiny("qwen3_lm"), manifest, group)
    assert len(four) == 4
    assert all(value < 0 for value in four)
    assert nothing == []


@pytest.mark.parametrize("name", tiny_models.names())
def test_the_engine_reads_the_same_tokens(tiny: Tiny, name: str) -> None:
    path = tiny(name)
    manifest = detect(path)
    reference = Reference(path, manifest)
    renderer = Renderer(path, manifest, vocabulary=VOCABULARY)
    for group in probe_groups(manifest):
        for response in group.responses:
            rendered = renderer.render([as_input(manifest, group, response)], truncate=False)[0]
            assert isinstance(rendered, Rendered)
            tokens = reference.tokens(group, response)
            ids = tokens.inputs["input_ids"][0].tolist()
            assert rendered.tags == tokens.tags
            # A template may close the turn after the last tag; nothing there is read.
            assert rendered.token_ids == (ids[: tokens.tags[-1] + 1] if tokens.tags else ids)


def as_input(manifest: Manifest, group: Group, response: Response) -> Input:
    if manifest.kind == "token_classify":
        return Input(prompt_of(group), Reply(steps=response.steps))
    return input_of(group, response)


@pytest.mark.parametrize(
    "group",
    [
        Group([Response(text="four"), Response(content="four")], text="<bos>2 + 2?"),
        Group([Response(text="four"), Response(token_ids=[50])], prompt="2 + 2?"),
        Group([Response(messages=[Message("assistant", "4")])], messages=[Message("user", "2?")]),
    ],
)
def test_every_form_of_prompt_and_response_has_one_bos(tiny: Tiny, group: Group) -> None:
    reference = Reference(tiny("llama"), detect(tiny("llama")))
    for response in group.responses:
        ids = reference.tokens(group, response).inputs["input_ids"][0].tolist()
        assert (ids[0], ids.count(1)) == (1, 1)


class TestCheck:
    def test_probes_are_written_and_repeatable(self, tiny: Tiny, tmp_path: Path) -> None:
        manifest = check_model(tiny("qwen3"))
        assert manifest.probes == check_model(tiny("qwen3")).probes
        write_manifest(tmp_path / "rewardd.json", manifest)
        assert read_manifest(tmp_path / "rewardd.json") == manifest
        for probe in manifest.probes:
            assert len(probe.values) == len(probe.group.responses)

    def test_an_edited_manifest_is_obeyed(self, tiny: Tiny) -> None:
        manifest = detect(tiny("qwen3"))
        assert manifest.chat_template is not None
        shout = manifest.chat_template.replace("message['content']", "message['content'] | upper")
        edited = msgspec.structs.replace(manifest, chat_template=shout)
        checked = check_model(tiny("qwen3"), edited)
        assert checked.chat_template == shout
        assert checked.probes != check_model(tiny("qwen3")).probes

    def test_probes_tell_responses_apart(self, tiny: Tiny) -> None:
        for probe in check_model(tiny("mistral")).probes:
            assert len({tuple(values) for values in probe.values}) == len(probe.values)

    def test_a_model_that_gives_nan_is_refused(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reference = Reference(tiny("qwen3"), detect(tiny("qwen3")))
        monkeypatch.setattr(reference, "_rows", lambda inputs: torch.full((1, 1), torch.nan))
        with pytest.raises(StartRefused, match="NaN"):
            reference.values(GROUP)


def test_the_base_of_an_adapter_is_not_the_adapter(tiny: Tiny) -> None:
    base = read_directory(tiny("peft_score")).base
    assert base is not None
    assert detect(base.path).kind == "lm"
