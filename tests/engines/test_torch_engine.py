"""The torch engine from call to output: the values of transformers, whatever is asked."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from rewardd.core.calls import (
    Call,
    Execute,
    Failure,
    Generate,
    GenerateOutput,
    Input,
    Logprobs,
    LogprobsOutput,
    Output,
    Pool,
    PoolOutput,
    Prompt,
    Reply,
    Scope,
)
from rewardd.core.chat import input_of
from rewardd.engines.torch.detect import detect
from rewardd.engines.torch.engine import TorchEngine
from rewardd.engines.torch.reference import reference_values
from rewardd_types import Group, Response
from tests.engines.asking import (
    NOW,
    calls_of,
    close,
    codes,
    first,
    generate,
    groups,
    numbers,
    pool,
    sampled,
    stepwise,
)

pytestmark = pytest.mark.anyio

Tiny = Callable[[str], Path]
Opened = Callable[..., AbstractAsyncContextManager[TorchEngine]]


class TestValues:
    @pytest.mark.parametrize(
        ("name", "asked"),
        [
            ("qwen3", groups()),
            ("llama", groups()),
            ("gemma2", groups("text")),
            ("bloom", groups()),
            ("qwen3_two_labels", groups()),
            ("openrlhf", groups()),
            ("peft_score", groups()),
            ("bert", groups()),
            ("modernbert", groups()),
            ("qwen2_prm", stepwise()),
            ("qwen3_tokens", stepwise()),
            ("qwen3_lm", groups()),
            ("gemma2_lm", groups("text")),
        ],
    )
    async def test_they_are_those_of_transformers(
        self, opened: Opened, tiny: Tiny, name: str, asked: list[Group]
    ) -> None:
        expected = [
            row for g in asked for row in reference_values(tiny(name), detect(tiny(name)), g)
        ]
        async with opened(name) as engine:
            calls = calls_of(engine, asked)
            together = numbers(await engine.run(calls, NOW))
            assert close(together, expected)
            backwards = numbers(await engine.run(calls[::-1], NOW))
            assert close(backwards[::-1], expected)
            at_once = await asyncio.gather(*(engine.run([call], NOW) for call in calls))
            assert close([numbers(outcomes)[0] for outcomes in at_once], expected)

    @pytest.mark.parametrize("change", ["trim", "upper"])
    async def test_a_template_that_changes_the_reply_is_obeyed(
        self, opened: Opened, tiny: Tiny, change: str
    ) -> None:
        found = detect(tiny("llama"))
        assert found.chat_template is not None
        template = found.chat_template.replace("['content']", f"['content'] | {change}")
        manifest = msgspec.structs.replace(found, chat_template=template)
        group = Group([Response(content=text) for text in (" four. ", "four.", "4")], prompt="?")
        expected = reference_values(tiny("llama"), manifest, group)
        async with opened("llama", manifest) as engine:
            values = numbers(await engine.run(calls_of(engine, [group]), NOW))
        assert close(values, expected)
        assert close(values[:1], values[1:2]) == (change == "trim")

    @pytest.mark.parametrize("budget", [16, 100])
    @pytest.mark.parametrize("name", ["qwen3", "bloom", "bert"])
    async def test_a_small_budget_gives_the_same(
        self, opened: Opened, name: str, budget: int
    ) -> None:
        async with opened(name) as engine, opened(name, max_batch_tokens=budget) as small:
            calls = calls_of(engine, groups())
            assert close(
                numbers(await small.run(calls, NOW)), numbers(await engine.run(calls, NOW))
            )

    async def test_positions_are_those_read(self, opened: Opened) -> None:
        async with opened("qwen2_prm") as engine:
            (outcome, *_) = await engine.run(calls_of(engine, stepwise()), Scope(explain=True))
            assert isinstance(outcome, PoolOutput)
            assert outcome.seen is not None
            assert outcome.seen.positions == outcome.positions
            assert [outcome.seen.token_ids[at] for at in outcome.positions] == [6, 6, 6]
            assert len(outcome.values) == 3

    async def test_the_last_token_is_read_though_it_is_the_pad_token(self, opened: Opened) -> None:
        """Trap T4."""
        ids = [[20, 30, 40], [20, 30, 40, 0], [20, 30, 40, 0, 0]]
        calls = [Pool("reward", Input(Prompt(token_ids=one))) for one in ids]
        for packing in ("auto", "off"):
            async with opened("qwen3", packing=packing) as engine:
                found = await engine.run(calls, NOW)
                assert [o.positions for o in found if isinstance(o, PoolOutput)] == [[2], [3], [4]]
                assert len({row[0] for row in numbers(found)}) == 3


class TestLogprobs:
    async def test_labels(self, opened: Opened, tiny: Tiny) -> None:
        calls = [
            Logprobs("judge", Input(Prompt(text=text), reply), labels=["Y", "N"])
            for text in ("Is it? ", "Is it not? ")
            for reply in (None, Reply(text="Well: "))
        ]
        async with opened("qwen3_lm") as engine:
            outcomes = await engine.run(calls, NOW)
            lm: Any = engine._checkpoint.lm
            for call, outcome in zip(calls, outcomes, strict=True):
                assert isinstance(outcome, LogprobsOutput)
                text = (call.input.prompt.text or "") + ("Well: " if call.input.reply else "")
                ids = engine._renderer.tokenizer(text)["input_ids"]
                with torch.inference_mode():
                    lm.set_attn_implementation("eager")
                    logprobs = lm(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
                labels = [engine._renderer.label_id(label) for label in ("Y", "N")]
                assert outcome.labels == pytest.approx(logprobs[labels].tolist(), abs=1e-4)
                assert len(outcome.logprobs) == (6 if call.input.reply else 0)

    async def test_over_the_vocabulary(self, opened: Opened) -> None:
        async with opened("gemma2_lm") as engine:
            call = Logprobs("p", Input(Prompt(text="2 + 2 "), Reply(text="is 4")))
            call = msgspec.structs.replace(call, over_vocabulary=True)
            (outcome,) = await engine.run([call], NOW)
            assert isinstance(outcome, LogprobsOutput)
            ids = engine._renderer.tokenizer("<bos>2 + 2 is 4", add_special_tokens=False)
            lm: Any = engine._checkpoint.lm
            with torch.inference_mode():
                lm.set_attn_implementation("eager")
                whole = torch.tensor([ids["input_ids"]])
                logprobs = lm(whole).logits[0, -5:-1].float().log_softmax(-1)
            assert outcome.over_vocabulary == pytest.approx(
                logprobs.mean(-1).tolist(), abs=1e-4, rel=1e-5
            )
            assert outcome.vocabulary == logprobs.shape[-1]
            assert outcome.token_ids == ids["input_ids"][-4:]

    async def test_only_what_was_asked(self, opened: Opened) -> None:
        async with opened("qwen3_lm") as engine:
            (outcome,) = await engine.run([Logprobs("p", input_of(*first(groups())))], NOW)
            assert isinstance(outcome, LogprobsOutput)
            assert (outcome.labels, outcome.over_vocabulary) == ([], [])

    @pytest.mark.parametrize("packing", ["auto", "off"])
    async def test_an_empty_reply_has_no_log_probabilities(
        self, opened: Opened, packing: str
    ) -> None:
        async with opened("qwen3_lm", packing=packing) as engine:
            empty = Logprobs("p", Input(Prompt(text="2 + 2"), Reply(text="")))
            nothing = Logprobs("p", Input(Prompt(text="2 + 2")))
            for outcome in await engine.run([empty, nothing], NOW):
                assert isinstance(outcome, LogprobsOutput)
                assert (outcome.logprobs, outcome.token_ids) == ([], [])

    async def test_a_label_of_several_tokens_is_its_calls_error(self, opened: Opened) -> None:
        async with opened("qwen3_lm") as engine:
            good = Logprobs("j", Input(Prompt(text="?")), labels=["Y"])
            bad = Logprobs("j", Input(Prompt(text="?")), labels=["Y", "No"])
            assert codes(await engine.run([bad, good], NOW)) == ["invalid_request", None]


class TestGenerate:
    async def test_greedy_as_transformers(self, opened: Opened) -> None:
        async with opened("qwen3_lm") as engine:
            (outcome,) = await engine.run([generate("2 + 2?", temperature=0.0)], NOW)
            assert isinstance(outcome, GenerateOutput)
            chat = [{"role": "user", "content": "2 + 2?"}]
            tokenizer, lm = engine._renderer.tokenizer, engine._checkpoint.lm
            inputs: Any = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            assert lm is not None
            whole = lm.generate(**inputs, do_sample=False, max_new_tokens=12)  # type: ignore[operator]
            new = whole[0, inputs["input_ids"].shape[1] :].tolist()
            assert outcome.token_ids == new
            assert outcome.text == tokenizer.decode(new, skip_special_tokens=True)

    async def test_equal_seeds_beside_whatever_is_queued(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = [generate("2 + 2?", seed) for seed in range(4)]
        others = [generate("x" * n, 99, max_tokens=n) for n in (1, 30)]
        async with opened("qwen3_lm") as engine:
            alone = [(await engine.run([call], NOW))[0] for call in asked]
            mixed = await engine.run([others[0], *asked, others[1]], NOW)
            assert [sampled(one) for one in alone] == [sampled(one) for one in mixed[1:-1]]
            assert len({sampled(one) for one in alone}) == 4

    async def test_reading_and_sampling_in_turn(self, opened: Opened) -> None:
        """One body serves both, with the attention of each."""
        async with opened("qwen3_lm") as engine:
            score, sample = Logprobs("p", input_of(*first(groups()))), generate("2 + 2?")
            before = [(await engine.run([call], NOW))[0] for call in (score, sample)]
            mixed = await engine.run([score, sample, score, sample], NOW)
            for old, new in zip(before * 2, mixed, strict=True):
                assert sampled(old) == sampled(new)

    @pytest.mark.parametrize(("length", "reason"), [(1, "length"), (5, "length"), (12, "length")])
    async def test_the_length_is_kept_and_named(
        self, opened: Opened, length: int, reason: str
    ) -> None:
        async with opened("qwen3_lm") as engine:
            (outcome,) = await engine.run([generate("2?", 1, max_tokens=length)], NOW)
            assert isinstance(outcome, GenerateOutput)
            assert (len(outcome.token_ids), outcome.finish_reason) == (length, reason)
            assert len(outcome.logprobs) == length

    async def test_a_stop_string_stops_and_stays(self, opened: Opened) -> None:
        async with opened("qwen3_lm") as engine:
            (free,) = await engine.run([generate("2?", 5)], NOW)
            assert isinstance(free, GenerateOutput)
            stop = next(c for c in free.text if c.isascii())
            (outcome,) = await engine.run([generate("2?", 5, stop=[stop])], NOW)
            assert isinstance(outcome, GenerateOutput)
            assert outcome.finish_reason == "stop"
            assert outcome.text.endswith(stop)
            assert free.token_ids[: len(outcome.token_ids)] == outcome.token_ids

    async def test_the_end_token_is_in_the_ids_and_not_in_the_text(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened("qwen3_lm") as engine:
            (free,) = await engine.run([generate("2?", 5)], NOW)
            assert isinstance(free, GenerateOutput)
            end = free.token_ids[3]
            monkeypatch.setattr(engine, "_ends", frozenset({end}))
            monkeypatch.setattr(engine._generate, "_ends", {end})
            (outcome,) = await engine.run([generate("2?", 5)], NOW)
            assert isinstance(outcome, GenerateOutput)
            assert outcome.token_ids[-1] == end
            assert outcome.finish_reason == "stop"
            without = engine._renderer.tokenizer.decode(outcome.token_ids[:-1])
            assert outcome.text == without

    async def test_no_room_is_an_error(self, opened: Opened) -> None:
        async with opened("qwen3_lm") as engine:
            outcomes = await engine.run([generate("2?", max_tokens=1024), generate("2?")], NOW)
            assert codes(outcomes) == ["invalid_request", None]

    async def test_a_prompt_sampled_often_is_computed_once(self, opened: Opened) -> None:
        async with opened("qwen3_lm") as engine:
            asked = [generate("2 + 2?", seed) for seed in range(3)]
            usages = [o.usage for o in await engine.run(asked, NOW) if isinstance(o, Output)]
            prompt = len(engine._renderer.tokenizer.apply_chat_template(
                [{"role": "user", "content": "2 + 2?"}], add_generation_prompt=True,
                return_dict=False,
            ))  # fmt: skip
            assert [one.tokens_total for one in usages] == [prompt + 12] * 3
            assert [one.tokens_computed for one in usages] == [prompt + 12, 12, 12]
            assert [one.tokens_reused for one in usages] == [0, prompt, prompt]


class TestUnsupported:
    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("qwen3_lm", Pool("r", Input(Prompt(text="a")))),
            ("qwen3", Pool("r", Input(Prompt(text="a"), Reply(steps=["b"])), "token_classify")),
            ("qwen2_prm", Pool("r", Input(Prompt(text="a")))),
            ("qwen3", Logprobs("r", Input(Prompt(text="a")))),
            ("bert", Generate("r", Input(Prompt(text="a")), 0, 1)),
            ("qwen3", Execute("r", "f", {})),
        ],
    )
    async def test_its_calls_error_names_role_and_head(
        self, opened: Opened, name: str, call: Call[Any]
    ) -> None:
        async with opened(name) as engine:
            (outcome,) = await engine.run([call], NOW)
            assert isinstance(outcome, Failure)
            assert outcome.error.code == "unsupported_call"
            assert "`r`" in outcome.error.message
            assert str(engine.card.head) in outcome.error.message

    async def test_beside_calls_that_work(self, opened: Opened) -> None:
        async with opened("qwen3") as engine:
            calls = [pool("a", "b"), Execute("r", "f", {}), pool("a", "c")]
            assert codes(await engine.run(calls, NOW)) == [None, "unsupported_call", None]

    async def test_supports_says_so_beforehand(self, opened: Opened) -> None:
        async with opened("qwen3_lm") as lm, opened("qwen2_prm") as prm:
            asked = [
                (Pool, "classify"),
                (Pool, "token_classify"),
                (Logprobs, None),
                (Generate, None),
            ]
            assert [lm.supports(*each) for each in asked] == [False, False, True, True]
            assert [prm.supports(*each) for each in asked] == [False, True, False, False]
            assert not prm.supports(Execute)
