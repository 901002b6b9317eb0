"""Rendering: the tokens transformers would give, one BOS, tags where they belong, nothing lost."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from loadtest.tiny_tokenizer import TEMPLATES, VOCABULARY
from rewardd.core.calls import Input, Prompt, Reply
from rewardd.engines.manifest import Manifest, StepTag
from rewardd.engines.rendering import Rendered, Renderer
from rewardd.engines.torch.detect import detect
from rewardd.errors import (
    EngineError,
    InputTooLong,
    InvalidRequest,
    RewarddError,
    UnsupportedCall,
)
from rewardd_types import Message

Tiny = Callable[[str], Path]
BOS, STEP, END = 1, 5, 8  # ids of the tiny tokenizers; bytes come after END
USER = [Message("user", "What is 2 + 2? 🙂")]
TURNS = [
    Message("system", "Be brief."),
    Message("user", "2 + 2?"),
    Message("assistant", "4"),
    Message("user", "Sûr?"),
]
REPLIES = [
    "Four.",
    "天真的咖啡馆 ☕",
    "a\nb\n",
    "<think>\nhm\n</think>\n\n4",
    "e\u0301 | 👨‍👩‍👧",
    "user",
]

TRIMMING = TEMPLATES["chat"].replace("message['content']", "message['content'] | trim")
SHOUTING = TEMPLATES["chat"].replace("message['content']", "message['content'] | upper")
HIDING = TEMPLATES["chat"].replace("message['content']", "''")
REFUSING = "{{ raise_exception('only one turn') }}"
THINKING = (  # as Qwen3: an empty thought before the last answer that has none
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n"
    "{%- if m.role == 'assistant' and loop.last and '</think>' not in m.content %}"
    "<think>\n\n</think>\n\n{% endif -%}"
    "{{ m.content }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)


@pytest.fixture
def renderer(tiny: Tiny) -> Callable[..., Renderer]:
    """The renderer of a tiny model, with changes to its manifest."""

    def of(name: str, **changes: Any) -> Renderer:
        manifest = msgspec.structs.replace(detect(tiny(name)), **changes)
        return Renderer(tiny(name), manifest, VOCABULARY)

    return of


Of = Callable[..., Renderer]


def render(renderer: Renderer, input_: Input, truncate: bool = False) -> Rendered:
    (rendered,) = renderer.render([input_], truncate)
    if isinstance(rendered, RewarddError):
        raise rendered
    return rendered


def chat(messages: Sequence[Message], reply: str | None = None) -> Input:
    return Input(Prompt(messages=list(messages)), None if reply is None else Reply(content=reply))


def reply_text(renderer: Renderer, rendered: Rendered) -> str:
    assert rendered.reply is not None
    return renderer.decode(rendered.token_ids[slice(*rendered.reply)])


class TestAgainstTransformers:
    """The oracle is `apply_chat_template(tokenize=True)`, as model cards call it."""

    @pytest.fixture
    def oracle(self, tiny: Tiny) -> Callable[..., list[int]]:
        def ids(name: str, messages: list[Message], ask: bool) -> list[int]:
            tokenizer = transformers.AutoTokenizer.from_pretrained(tiny(name))
            turns = msgspec.to_builtins(messages)
            found: list[int] = tokenizer.apply_chat_template(
                turns, tokenize=True, return_dict=False, add_generation_prompt=ask
            )
            return found

        return ids

    @pytest.mark.parametrize("name", ["qwen3", "llama", "gpt_neox", "gemma2"])
    @pytest.mark.parametrize("messages", [USER, TURNS])
    @pytest.mark.parametrize("reply", REPLIES)
    def test_conversations(
        self,
        renderer: Of,
        oracle: Callable[..., list[int]],
        name: str,
        messages: list[Message],
        reply: str,
    ) -> None:
        expected = oracle(name, [*messages, Message("assistant", reply)], ask=False)
        assert render(renderer(name), chat(messages, reply)).token_ids == expected
        assert expected.count(BOS) == (name in ("llama", "gemma2"))

    @pytest.mark.parametrize("name", ["qwen3", "llama"])
    @pytest.mark.parametrize("messages", [USER, TURNS])
    def test_prompts_that_ask(
        self, renderer: Of, oracle: Callable[..., list[int]], name: str, messages: list[Message]
    ) -> None:
        expected = oracle(name, messages, ask=True)
        assert render(renderer(name), chat(messages)).token_ids == expected

    @pytest.mark.parametrize("name", ["qwen3", "llama"])
    def test_traces(self, renderer: Of, oracle: Callable[..., list[int]], name: str) -> None:
        trace = [
            Message("assistant", "", tool_calls=[{"function": {"name": "add"}}]),
            Message("tool", "4", tool_call_id="1"),
            Message("assistant", "It is 4."),
        ]
        rendered = render(renderer(name), Input(Prompt(messages=USER), Reply(messages=trace)))
        assert rendered.token_ids == oracle(name, [*USER, *trace], ask=False)

    def test_the_manifests_template_wins(self, renderer: Of) -> None:
        shout = renderer("qwen3", chat_template=SHOUTING)
        assert "FOUR." in shout.decode(render(shout, chat(USER, "Four.")).token_ids)


class TestBos:
    """Trap T3: a template and a tokenizer that each add one, or neither."""

    @pytest.mark.parametrize(
        "input_",
        [
            Input(Prompt(text="2 + 2 = "), Reply(text="4")),
            Input(Prompt(text="<bos>2 + 2 = "), Reply(content="4")),
            Input(Prompt(text="2 + 2 = ")),
            Input(Prompt(text="2 + 2 = "), Reply(token_ids=[50, 51])),
            Input(Prompt(text="<bos>2 + 2 = "), Reply(token_ids=[50, 51])),
            Input(Prompt(messages=USER), Reply(text="4")),
            Input(Prompt(messages=USER), Reply(token_ids=[50, 51])),
            Input(Prompt(messages=USER), Reply(messages=[Message("assistant", "4")])),
            Input(Prompt(token_ids=[BOS, 50]), Reply(text="4")),
            chat(TURNS, "4"),
            chat(TURNS),
        ],
    )
    def test_exactly_one(self, renderer: Of, input_: Input) -> None:
        ids = render(renderer("llama"), input_).token_ids
        assert (ids[0], ids.count(BOS)) == (BOS, 1)

    @pytest.mark.parametrize(
        "input_",
        [Input(Prompt(text="2 + 2 = "), Reply(text="4")), chat(TURNS, "4"), chat(TURNS)],
    )
    def test_none_where_the_manifest_wants_none(self, renderer: Of, input_: Input) -> None:
        assert BOS not in render(renderer("qwen3"), input_).token_ids

    def test_the_manifest_decides_against_the_tokenizer(self, renderer: Of) -> None:
        """Trained without BOS, on a tokenizer that adds one (RLHFlow)."""
        without = renderer("llama", begins_with_bos=False, chat_template=TEMPLATES["chat"])
        for input_ in (chat(USER, "4"), Input(Prompt(text="2"), Reply(text="4"))):
            assert BOS not in render(without, input_).token_ids

    def test_the_manifest_decides_for_a_template_without(self, renderer: Of) -> None:
        with_bos = renderer("qwen3", begins_with_bos=True)
        ids = render(with_bos, chat(USER, "4")).token_ids
        assert ids == [BOS, *render(renderer("qwen3"), chat(USER, "4")).token_ids]

    def test_ids_are_taken_as_they_are(self, renderer: Of) -> None:
        ids = render(renderer("llama"), Input(Prompt(token_ids=[50]), Reply(token_ids=[51])))
        assert ids.token_ids == [50, 51]


class TestReplySpan:
    """For causal LMs; nobody asks a classifier where the reply stands."""

    @pytest.mark.parametrize("name", ["qwen3", "llama"])
    @pytest.mark.parametrize("reply", [*REPLIES, "  padded \n"])
    @pytest.mark.parametrize("messages", [USER, TURNS])
    def test_it_decodes_back_to_the_reply(
        self, renderer: Of, name: str, reply: str, messages: list[Message]
    ) -> None:
        found = renderer(name, kind="lm")
        assert reply_text(found, render(found, chat(messages, reply))) == reply

    @pytest.mark.parametrize(
        "prompt",
        [
            Prompt(text="2 + 2 = é"),
            Prompt(messages=TURNS),
            Prompt(token_ids=[BOS, 60, 61]),
        ],
    )
    @pytest.mark.parametrize("reply", [*REPLIES, " padded "])
    @pytest.mark.parametrize("name", ["qwen3", "llama"])
    def test_text_and_ids_follow_the_prompt(
        self, renderer: Of, prompt: Prompt, reply: str, name: str
    ) -> None:
        found = renderer(name, kind="lm")
        as_text = render(found, Input(prompt, Reply(text=reply)))
        assert reply_text(found, as_text) == reply
        ids = as_text.token_ids[slice(*(as_text.reply or (0, 0)))]
        assert render(found, Input(prompt, Reply(token_ids=ids))) == as_text
        assert as_text.reply is not None
        assert as_text.reply[1] == len(as_text.token_ids)

    @pytest.mark.parametrize("reply", ["  4 apples\n", "4", "m", "assistant"])
    def test_a_template_that_trims(self, renderer: Of, reply: str) -> None:
        found = renderer("qwen3", kind="lm", chat_template=TRIMMING)
        assert reply_text(found, render(found, chat(USER, reply))) == reply.strip()

    @pytest.mark.parametrize("reply", ["4", "think", "k", "</", "\n", "<think>\nhm\n</think>\n\n4"])
    def test_a_template_that_adds_a_thought(self, renderer: Of, reply: str) -> None:
        """Searching for the reply would find `think` in what the template adds before it."""
        found = renderer("qwen3", kind="lm", chat_template=THINKING)
        rendered = render(found, chat(USER, reply))
        assert reply_text(found, rendered) == reply
        after = renderer("qwen3").decode(rendered.token_ids[(rendered.reply or (0, 0))[1] :])
        assert after == "<|im_end|>"

    @pytest.mark.parametrize("template", [SHOUTING, HIDING])
    def test_a_template_that_rewrites_leaves_it_unknown(self, renderer: Of, template: str) -> None:
        found = renderer("qwen3", kind="lm", chat_template=template)
        assert render(found, chat(USER, "It is four.")).reply is None

    def test_a_trace_has_no_single_reply(self, renderer: Of) -> None:
        trace = Reply(messages=[Message("assistant", "4")])
        assert (
            render(renderer("qwen3", kind="lm"), Input(Prompt(messages=USER), trace)).reply is None
        )

    @pytest.mark.parametrize("reply", [Reply(content=""), Reply(text=""), Reply(token_ids=[])])
    @pytest.mark.parametrize("prompt", [Prompt(text="2 + 2"), Prompt(messages=USER)])
    def test_an_empty_reply_is_an_empty_span(
        self, renderer: Of, prompt: Prompt, reply: Reply
    ) -> None:
        found = renderer("llama", kind="lm")
        rendered = render(found, Input(prompt, reply))
        assert rendered.reply is not None
        assert rendered.reply[0] == rendered.reply[1]


class TestSteps:
    @pytest.mark.parametrize("name", ["qwen2_prm", "qwen3_tokens"])
    def test_each_step_is_followed_by_its_tag(self, renderer: Of, name: str) -> None:
        found, steps = renderer(name), ["2 + 2.", "Das ist vier 🙂", "So 4"]
        tag = found.manifest.step_tag
        assert tag is not None
        rendered = render(found, Input(Prompt(messages=USER), Reply(steps=steps)))
        before = render(found, chat(USER)).token_ids
        assert rendered.token_ids[: len(before)] == before
        assert [rendered.token_ids[at] for at in rendered.tags] == [tag.token_id] * len(steps)
        assert reply_text(found, rendered) == "".join(step + tag.token for step in steps)

    @pytest.mark.parametrize("literal", ["<step>", "<extra_0>", "a<step>b", "<|im_end|>", "<bos>"])
    def test_a_special_token_written_in_a_step_stays_text(self, renderer: Of, literal: str) -> None:
        """Trap T7: whoever writes the tag would otherwise add a step, or end the reply."""
        found = renderer("qwen3_tokens")
        rendered = render(found, Input(Prompt(text="?"), Reply(steps=[literal, "b"])))
        assert rendered.token_ids.count(STEP) == len(rendered.tags) == 2
        inside = rendered.token_ids[1 : rendered.tags[0]]
        assert min(inside) > END
        assert found.decode(inside) == literal

    def test_a_tag_written_in_the_prompt_is_that_token_and_is_not_read(self, renderer: Of) -> None:
        """As transformers reads it; a template's own marks are spelled the same way, so the
        rendered text cannot tell them apart. The positions read are ours, so no step is added."""
        found = renderer("qwen3_tokens")
        rendered = render(found, Input(Prompt(text="a<step>b"), Reply(steps=["c"])))
        assert rendered.token_ids.count(STEP) == 2
        assert rendered.tags == [len(rendered.token_ids) - 1]

    def test_an_empty_step_has_its_tag(self, renderer: Of) -> None:
        found = renderer("qwen3_tokens")
        rendered = render(found, Input(Prompt(text="?"), Reply(steps=["a", "", "b"])))
        start = (rendered.reply or (0, 0))[0]
        assert rendered.tags == [start + 1, start + 2, start + 4]

    def test_a_model_without_a_tag_reads_no_steps(self, renderer: Of) -> None:
        with pytest.raises(UnsupportedCall, match="no step tag"):
            render(renderer("qwen3"), Input(Prompt(text="?"), Reply(steps=["a"])))

    def test_ids_may_be_the_prompt_of_steps(self, renderer: Of) -> None:
        rendered = render(
            renderer("qwen3_tokens"), Input(Prompt(token_ids=[50, 51]), Reply(steps=["a"]))
        )
        assert rendered.token_ids[:2] == [50, 51]
        assert rendered.reply == (2, 4)


class TestMerges:
    """With a vocabulary whose pieces cross the borders of steps, spans and words."""

    @pytest.fixture(params=["bytes", "metaspace"])
    def found(self, request: pytest.FixtureRequest, tmp_path: Path) -> Renderer:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
        alphabet = []
        if request.param == "bytes":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            alphabet = pre_tokenizers.ByteLevel.alphabet()
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
            tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<unk>", "<step>", "<bos>"],
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(
            ["so the answer is four\n\n so. Then the next ones"] * 9, trainer
        )
        tokenizer.add_special_tokens([AddedToken("<step>", special=True)])
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>"
        ).save_pretrained(tmp_path)
        manifest = Manifest("m", "r", "A", "token_classify", "h", 2, 512)
        manifest = msgspec.structs.replace(manifest, step_tag=StepTag("<step>", 1))
        return Renderer(tmp_path, manifest, tokenizer.get_vocab_size())

    def test_steps_do_not_merge_with_what_follows(self, found: Renderer) -> None:
        """Trap T7: `four\\n` and `\\n so` joined would share a token."""
        steps = ["the answer is four\n", "\n so the answer", "four"]
        rendered = render(found, Input(Prompt(text="so "), Reply(steps=steps)))
        starts = [rendered.reply[0] if rendered.reply else 0, *(tag + 1 for tag in rendered.tags)]
        for start, tag, step in zip(starts, rendered.tags, steps, strict=False):
            alone = found.tokenizer(step, add_special_tokens=False)["input_ids"]
            assert rendered.token_ids[start:tag] == alone

    @pytest.mark.parametrize("reply", ["the answer", " the answer is four", "then", "\n\n so"])
    def test_a_span_covers_every_letter_of_the_reply(self, found: Renderer, reply: str) -> None:
        """A token that crosses into the reply is the reply's: it says something of it."""
        rendered = render(found, Input(Prompt(text="so the ans"), Reply(text=reply)))
        assert reply_text(found, rendered).endswith(reply.strip(" "))
        assert rendered.reply is not None
        assert rendered.reply[1] == len(rendered.token_ids)


class TestPairs:
    @pytest.mark.parametrize("name", ["bert", "modernbert", "roberta"])
    def test_two_segments_as_cross_encoders_read_them(
        self, renderer: Of, tiny: Tiny, name: str
    ) -> None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny(name))
        coded = tokenizer("Wie viel?", "Vier ☕")
        rendered = render(renderer(name), Input(Prompt(text="Wie viel?"), Reply(content="Vier ☕")))
        assert rendered.token_ids == coded["input_ids"]
        assert rendered.type_ids == coded.get("token_type_ids")
        assert (rendered.type_ids is not None) == (name == "bert")

    def test_conversations_are_their_words(self, renderer: Of) -> None:
        found = renderer("bert")
        whole = Input(Prompt(messages=TURNS), Reply(messages=USER))
        words = "\n".join(turn.content for turn in TURNS)
        plain = Input(Prompt(text=words), Reply(text=USER[0].content))
        assert render(found, whole) == render(found, plain)

    def test_a_prompt_alone_is_one_segment(self, renderer: Of) -> None:
        ids = render(renderer("bert"), Input(Prompt(text="a"))).token_ids
        assert (ids[0], ids[-1], len(ids)) == (3, 4, 3)

    @pytest.mark.parametrize(
        "input_",
        [
            Input(Prompt(token_ids=[9]), Reply(text="a")),
            Input(Prompt(text="a"), Reply(token_ids=[9])),
            Input(Prompt(text="a"), Reply(steps=["b"])),
        ],
    )
    def test_what_is_no_words_is_refused_and_not_left_out(
        self, renderer: Of, input_: Input
    ) -> None:
        with pytest.raises(UnsupportedCall, match="words"):
            render(renderer("bert"), input_)


class TestLength:
    """Trap T5: too long is an error unless the caller allowed the cut, which is reported."""

    @pytest.mark.parametrize("name", ["qwen3", "llama"])
    @pytest.mark.parametrize("reply", ["Four.", "天真 ☕"])
    def test_the_start_of_the_prompt_goes_and_nothing_else(
        self, renderer: Of, name: str, reply: str
    ) -> None:
        whole = render(renderer(name), chat(TURNS, reply))
        limit = len(whole.token_ids) - 20
        short = renderer(name, max_length=limit)
        rendered = render(short, chat(TURNS, reply), truncate=True)
        bos = int(name == "llama")
        assert rendered.dropped == 20
        assert rendered.token_ids == whole.token_ids[:bos] + whole.token_ids[bos + 20 :]
        assert len(rendered.token_ids) == limit
        assert reply_text(short, rendered) == reply

    def test_an_error_unless_asked(self, renderer: Of) -> None:
        size = len(render(renderer("qwen3"), chat(USER, "4")).token_ids)
        exact = renderer("qwen3", max_length=size)
        assert render(exact, chat(USER, "4"), truncate=True).dropped == 0
        with pytest.raises(InputTooLong, match=f"{size} tokens; this model reads {size - 1} "):
            render(renderer("qwen3", max_length=size - 1), chat(USER, "4"))

    @pytest.mark.parametrize("name", ["qwen3", "llama"])
    @pytest.mark.parametrize("reply", [Reply(text="x" * 30), Reply(token_ids=[60] * 30)])
    def test_a_reply_is_never_cut(self, renderer: Of, name: str, reply: Reply) -> None:
        bos = int(name == "llama")
        input_ = Input(Prompt(text="y" * 30), reply)
        kept = render(renderer(name, max_length=30 + bos), input_, truncate=True)
        assert len(kept.token_ids) == 30 + bos
        assert kept.reply == (bos, 30 + bos)
        with pytest.raises(InputTooLong, match="whole prompt"):
            render(renderer(name, max_length=29 + bos), input_, truncate=True)

    def test_steps_are_never_cut_the_first_neither(self, renderer: Of) -> None:
        input_ = Input(Prompt(text="y" * 30), Reply(steps=["x" * 10, "z" * 10]))
        kept = render(renderer("qwen3_tokens", max_length=22), input_, truncate=True)
        assert (kept.tags, kept.dropped) == ([10, 21], 30)
        with pytest.raises(InputTooLong):
            render(renderer("qwen3_tokens", max_length=21), input_, truncate=True)

    def test_a_prompt_alone_keeps_its_end(self, renderer: Of) -> None:
        found = renderer("llama", max_length=11)
        rendered = render(found, Input(Prompt(text="abcdefghijklmnop")), truncate=True)
        assert found.decode(rendered.token_ids) == "<bos>ghijklmnop"

    def test_encoders_are_not_cut(self, renderer: Of) -> None:
        input_ = Input(Prompt(text="a" * 600), Reply(text="b"))
        for truncate in (False, True):
            with pytest.raises(InputTooLong, match="encoder"):
                render(renderer("bert"), input_, truncate)


class TestErrors:
    @pytest.mark.parametrize(
        ("input_", "error", "words"),
        [
            (Input(Prompt(text="")), InvalidRequest, "no tokens"),
            (Input(Prompt(token_ids=[]), Reply(token_ids=[])), InvalidRequest, "no tokens"),
            (Input(Prompt(token_ids=[VOCABULARY])), InvalidRequest, "vocabulary"),
            (Input(Prompt(token_ids=[9, -1, 9])), InvalidRequest, "vocabulary"),
            (
                Input(Prompt(text="a"), Reply(messages=[Message("assistant", "b")])),
                UnsupportedCall,
                "take no `messages`",
            ),
            (
                Input(Prompt(token_ids=[9]), Reply(messages=[Message("assistant", "b")])),
                UnsupportedCall,
                "take no `messages`",
            ),
        ],
    )
    def test_each_says_what_is_wrong(
        self, renderer: Of, input_: Input, error: type[RewarddError], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            render(renderer("qwen3"), input_)

    def test_a_conversation_the_template_refuses(self, renderer: Of) -> None:
        with pytest.raises(InvalidRequest, match="only one turn"):
            render(renderer("qwen3", chat_template=REFUSING), chat(TURNS, "4"))

    def test_no_template(self, renderer: Of) -> None:
        found = renderer("qwen3", chat_template=None)
        with pytest.raises(UnsupportedCall, match="no chat template"):
            render(found, chat(USER, "4"))
        assert render(found, Input(Prompt(text="a"), Reply(text="b"))).reply == (1, 2)

    def test_one_bad_input_leaves_the_others(self, renderer: Of) -> None:
        """A lone surrogate cannot be encoded; no JSON body carries one, a method's text may."""
        good, bad = Input(Prompt(text="a")), Input(Prompt(text="\ud800"))
        first, second, third = renderer("qwen3").render([good, bad, good], truncate=False)
        assert isinstance(second, EngineError)
        assert isinstance(first, Rendered)
        assert first == third


class TestLabels:
    def test_one_token(self, renderer: Of) -> None:
        found = renderer("qwen3_lm")
        assert found.decode([found.label_id("Y")]) == "Y"
        assert found.label_id("<step>") == STEP

    @pytest.mark.parametrize("label", ["", "Yes", "é"])
    def test_several_tokens_or_none_are_refused(self, renderer: Of, label: str) -> None:
        with pytest.raises(InvalidRequest, match="tokens of this model"):
            renderer("qwen3_lm").label_id(label)
