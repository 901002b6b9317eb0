"""The torch engine in service: failures of their own, honest usage, health, and leaving."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from rewardd.core.calls import (
    Failure,
    GenerateOutput,
    Input,
    Output,
    Pool,
    PoolOutput,
    Prompt,
    Reply,
    Scope,
)
from rewardd.engines.torch.engine import TorchEngine
from rewardd.errors import EngineUnavailable
from tests.engines.asking import (
    NOW,
    PATIENCE_S,
    calls_of,
    close,
    codes,
    generate,
    groups,
    numbers,
    pool,
)

pytestmark = pytest.mark.anyio

Tiny = Callable[[str], Path]
Opened = Callable[..., AbstractAsyncContextManager[TorchEngine]]


class Gate:
    """Holds an engine's forward until it is opened."""

    def __init__(self, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.batches: list[int] = []
        self._forward = engine._forward
        monkeypatch.setattr(engine, "_forward", self)

    def __call__(self, reads: Sequence[Any]) -> Any:
        self.batches.append(len(reads))
        self.entered.set()
        assert self.open.wait(PATIENCE_S)
        return self._forward(reads)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, PATIENCE_S)


async def queued(engine: TorchEngine, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(engine._batcher._queue) < count:
            await asyncio.sleep(0.001)


class TestFailures:
    @pytest.mark.parametrize("name", ["qwen3", "bloom", "bert"])
    async def test_nan_is_the_error_of_its_call_only(self, opened: Opened, name: str) -> None:
        """The letter Z has no embedding any more, after the model was loaded."""
        calls = [pool("2 + 2", reply) for reply in ("4", "Z", "4 or Z", "5", "4")]
        async with opened(name) as engine:
            before = numbers(await engine.run([calls[0], calls[3]], NOW))
            weight: Any = engine._checkpoint.body.get_input_embeddings().weight  # type: ignore[operator]
            weight.data[engine._renderer.label_id("Z")] = torch.nan
            outcomes = await engine.run(calls, NOW)
            bad = [None, "non_finite", "non_finite", None, None]
            assert codes(outcomes) == bad
            assert close(numbers([outcomes[0], outcomes[3]]), before)

    @pytest.mark.parametrize("infinite", [torch.inf, -torch.inf, torch.nan])
    async def test_a_head_that_gives_no_number(self, opened: Opened, infinite: float) -> None:
        async with opened("qwen3") as engine:
            head: Any = engine._checkpoint.head
            head.mean = infinite
            assert codes(await engine.run([pool("a", "b")], NOW)) == ["non_finite"]

    async def test_sampling_nan(self, opened: Opened) -> None:
        async with opened("qwen2_lm") as engine:
            weight: Any = engine._checkpoint.body.get_input_embeddings().weight  # type: ignore[operator]
            weight.data[engine._renderer.label_id("Z")] = torch.nan
            outcomes = await engine.run([generate("Z?"), generate("2?", 1)], NOW)
            assert codes(outcomes) == ["non_finite", None]

    async def test_too_long_and_out_of_vocabulary(self, opened: Opened) -> None:
        async with opened("qwen3") as engine:
            alien = Pool("reward", Input(Prompt(token_ids=[9, 272])))
            outcomes = await engine.run([pool("a" * 2000, "b"), alien, pool("a", "b")], NOW)
            assert codes(outcomes) == ["input_too_long", "invalid_request", None]

    async def test_truncation_is_reported(self, opened: Opened) -> None:
        async with opened("llama") as engine:
            call = pool("a" * 2000, "b" * 10)
            (outcome,) = await engine.run([call], Scope(truncate=True, explain=True))
            assert isinstance(outcome, PoolOutput)
            assert outcome.usage.truncated
            assert outcome.usage.tokens_dropped == 2011 - 1024
            assert outcome.usage.tokens_total == 1024
            assert outcome.seen is not None
            assert outcome.seen.text == "<bos>" + "a" * 1013 + "b" * 10

    async def test_running_out_of_memory_splits_and_goes_on(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened("qwen3") as engine:
            calls = [pool("2 + 2", str(n)) for n in range(8)]
            expected = numbers(await engine.run(calls, NOW))
            forward, sizes = engine._forward, []

            def small(reads: Sequence[Any]) -> Any:
                sizes.append(len(reads))
                if len(reads) > 2:
                    raise torch.OutOfMemoryError("too much")
                return forward(reads)

            monkeypatch.setattr(engine, "_forward", small)
            assert close(numbers(await engine.run(calls, NOW)), expected)
            assert sizes == [8, 4, 2, 2, 4, 2, 2]

    async def test_memory_that_never_suffices_is_a_retryable_error(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened("qwen3") as engine:

            def never(reads: Sequence[Any]) -> Any:
                raise torch.OutOfMemoryError("too much")

            monkeypatch.setattr(engine, "_forward", never)
            (outcome,) = await engine.run([pool("a", "b")], NOW)
            assert isinstance(outcome, Failure)
            assert (outcome.error.code, outcome.error.retryable) == ("out_of_memory", True)

    async def test_a_call_that_breaks_the_forward_fails_alone(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened("qwen3") as engine:
            poison = engine._renderer.label_id("!")
            forward = engine._forward

            def fragile(reads: Sequence[Any]) -> Any:
                if any(poison in read.tokens.ids for read in reads):
                    raise RuntimeError("device-side assert")
                return forward(reads)

            monkeypatch.setattr(engine, "_forward", fragile)
            calls = [pool("2 + 2", "!" if n == 5 else str(n)) for n in range(16)]
            expected = ["engine_error" if n == 5 else None for n in range(16)]
            assert codes(await engine.run(calls, NOW)) == expected


class TestUsage:
    async def test_each_unique_token_of_a_batch_is_counted_once(self, opened: Opened) -> None:
        async with opened("qwen3") as engine:
            calls = calls_of(engine, groups())
            outcomes = await engine.run(calls, Scope(explain=True))
            unique, total = set(), 0
            for outcome in outcomes:
                assert isinstance(outcome, Output)
                assert outcome.seen is not None
                ids = outcome.seen.token_ids
                unique |= {tuple(ids[: n + 1]) for n in range(len(ids))}
                total += len(ids)
                usage = outcome.usage
                assert usage.tokens_total == usage.tokens_computed + usage.tokens_reused == len(ids)
            usages = [o.usage for o in outcomes if isinstance(o, Output)]
            assert sum(usage.tokens_computed for usage in usages) == len(unique) < total / 2

    async def test_one_bos(self, opened: Opened) -> None:
        calls = [pool("a", "b"), pool("<bos>a", "b"), pool("<bos><bos>a", "b")]
        async with opened("llama") as with_bos, opened("qwen3") as without:
            outcomes = [await with_bos.run(calls, NOW), await without.run(calls[:1], NOW)]
            counts = [
                [o.usage.bos_count for o in each if isinstance(o, Output)] for each in outcomes
            ]
            assert counts == [[1, 1, 2], [0]]

    async def test_times(self, opened: Opened) -> None:
        async with opened("qwen3") as engine:
            since = time.monotonic()
            (outcome,) = await engine.run([pool("a", "b")], NOW)
            took = (time.monotonic() - since) * 1e3
            assert isinstance(outcome, Output)
            assert 0 < outcome.usage.compute_ms <= took
            assert 0 <= outcome.usage.queue_ms <= took


class TestExplain:
    async def test_what_was_read_and_where(self, opened: Opened) -> None:
        async with opened("llama") as engine:
            call = Pool("reward", Input(Prompt(text="2 + 2 = "), Reply(text="vier ☕")))
            (outcome,) = await engine.run([call], Scope(explain=True))
            assert isinstance(outcome, PoolOutput)
            seen = outcome.seen
            assert seen is not None
            assert (seen.role, seen.text) == ("reward", "<bos>2 + 2 = vier ☕")
            assert seen.positions == [len(seen.token_ids) - 1]

    async def test_an_encoder_has_no_position_of_its_own(self, opened: Opened) -> None:
        """BERT pools its first token, ModernBERT the mean: neither is the last."""
        async with opened("bert") as engine:
            (outcome,) = await engine.run([pool("a", "b")], Scope(explain=True))
            assert isinstance(outcome, PoolOutput)
            assert outcome.seen is not None
            assert outcome.seen.text == "<cls>a<sep>b<sep>"
            assert outcome.positions == outcome.seen.positions == []

    async def test_of_samples_the_prompt(self, opened: Opened) -> None:
        async with opened("qwen3_lm") as engine:
            (outcome,) = await engine.run([generate("2?")], Scope(explain=True))
            assert isinstance(outcome, GenerateOutput)
            assert outcome.seen is not None
            assert outcome.seen.text.endswith("<|im_start|>assistant\n")

    async def test_nothing_unless_asked_and_not_of_failures(self, opened: Opened) -> None:
        async with opened("qwen3") as engine:
            (outcome,) = await engine.run([pool("a", "b")], NOW)
            assert isinstance(outcome, Output)
            assert outcome.seen is None
            both = [pool("a" * 2000), pool("a", "b")]
            assert codes(await engine.run(both, Scope(explain=True))) == ["input_too_long", None]


class TestHealth:
    @pytest.mark.parametrize("name", ["qwen3", "qwen2_prm", "qwen3_lm", "bert", "bloom"])
    async def test_a_real_forward_proves_it(
        self, opened: Opened, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened(name) as engine:
            ran: list[int] = []
            compute = engine._values
            monkeypatch.setattr(engine, "_values", lambda jobs: ran.append(1) or compute(jobs))  # type: ignore[func-returns-value]
            engine._healthy_until = 0.0
            await engine.health()
            await engine.health()
            assert ran == [1]

    async def test_ill_when_no_forward_succeeds(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened("qwen3") as engine:

            def broken(reads: Sequence[Any]) -> Any:
                raise RuntimeError("the device is gone")

            engine._healthy_until = 0.0
            with monkeypatch.context() as patch:
                patch.setattr(engine, "_forward", broken)
                with pytest.raises(EngineUnavailable, match="the device is gone"):
                    await engine.health()
            await engine.health()

    async def test_serving_proves_it_too(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A busy engine is not asked for a test forward behind all that is queued."""
        async with opened("qwen3") as engine:
            engine._healthy_until = 0.0
            await engine.run([pool("a", "b")], NOW)
            monkeypatch.setattr(engine, "_forward", None)
            await engine.health()

    async def test_closed_is_ill(self, opened: Opened) -> None:
        async with opened("qwen3") as engine:
            await engine.aclose()
            engine._healthy_until = 0.0
            with pytest.raises(EngineUnavailable):
                await engine.health()

    async def test_an_encoders_test_forward_disturbs_no_pair(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has no segment types, and is queued among inputs that have."""
        call = pool("What is two plus two?", "It is four.")
        async with opened("bert") as engine:
            expected = numbers(await engine.run([call], NOW))
            entered, opens = threading.Event(), threading.Event()
            encode = engine._encoder

            def held(inputs: Sequence[Any]) -> Any:
                entered.set()
                assert opens.wait(PATIENCE_S)
                return encode(inputs)

            monkeypatch.setattr(engine, "_encoder", held)
            busy = asyncio.create_task(engine.run([call], NOW))
            assert await asyncio.to_thread(entered.wait, PATIENCE_S)
            await engine.health()  # a busy device is a healthy one, and nothing is queued
            engine._healthy_until, engine._busy_since = 0.0, -math.inf
            health = asyncio.create_task(engine.health())
            scored = asyncio.create_task(engine.run([call], NOW))
            await queued(engine, 2)
            opens.set()
            await asyncio.gather(busy, health)
            assert close(numbers(await scored), expected)


class TestLeaving:
    async def test_closing_fails_what_is_queued(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened("qwen3") as engine:
            gate = Gate(engine, monkeypatch)
            first = asyncio.create_task(engine.run([pool("a", "b")], NOW))
            await gate.reached()
            second = asyncio.create_task(engine.run([pool("a", "c")] * 3, NOW))
            await queued(engine, 3)
            closing = asyncio.create_task(engine.aclose())
            while not engine._batcher._closed:
                await asyncio.sleep(0)
            gate.open.set()
            await closing
            assert codes(await first) == [None]
            assert codes(await second) == ["engine_unavailable"] * 3

    async def test_a_closed_engine_is_unavailable(self, opened: Opened) -> None:
        async with opened("qwen3") as engine:
            await engine.aclose()
            with pytest.raises(EngineUnavailable):
                await engine.run([pool("a", "b")], NOW)

    async def test_a_cancelled_run_drops_what_it_queued(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened("qwen3") as engine:
            gate = Gate(engine, monkeypatch)
            first = asyncio.create_task(engine.run([pool("a", "b")], NOW))
            await gate.reached()
            gone = asyncio.create_task(engine.run([pool("a", "c")] * 5, NOW))
            await queued(engine, 5)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            stays = asyncio.create_task(engine.run([pool("a", "d")] * 2, NOW))
            await queued(engine, 7)
            gate.open.set()
            assert codes(await first) + codes(await stays) == [None] * 3
            assert gate.batches == [1, 2]

    async def test_a_deadline_in_the_queue(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with opened("qwen3") as engine:
            gate = Gate(engine, monkeypatch)
            first = asyncio.create_task(engine.run([pool("a", "b")], NOW))
            await gate.reached()
            deadline = time.monotonic()
            late = asyncio.create_task(engine.run([pool("a", "c")], Scope(deadline=deadline)))
            await queued(engine, 1)
            gate.open.set()
            assert codes(await late) == ["deadline_exceeded"]
            await first
            assert gate.batches == [1]

    async def test_no_thread_stays(self, opened: Opened) -> None:
        before = set(threading.enumerate())
        async with opened("qwen3") as engine:
            await engine.run([pool("a", "b")], NOW)
            assert any("device" in thread.name for thread in set(threading.enumerate()) - before)
        async with asyncio.timeout(PATIENCE_S):
            while any(
                thread.name.startswith(("device", "tokenise"))
                for thread in set(threading.enumerate()) - before
            ):
                await asyncio.sleep(0.001)
