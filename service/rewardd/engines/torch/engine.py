"""The torch engine: renders in a thread, queues for the device, reads out what was asked."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from rewardd.core.calls import (
    Call,
    EngineCard,
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
    Scope,
    Usage,
)
from rewardd.engines.batcher import Batcher
from rewardd.engines.rendering import Rendered, Renderer
from rewardd.engines.torch import jobs, readout
from rewardd.engines.torch.checkpoint import Checkpoint
from rewardd.engines.torch.encoder import EncoderForward
from rewardd.engines.torch.forward import Forward, Read, States
from rewardd.engines.torch.generate import Generator, Sample
from rewardd.engines.torch.jobs import GenerateJob, Job, ReadJob
from rewardd.engines.torch.plan import Tokens
from rewardd.errors import (
    EngineUnavailable,
    NonFinite,
    OutOfMemory,
    RewarddError,
    UnsupportedCall,
    to_info,
)
from rewardd_types import Seen

T = TypeVar("T")

HEALTH_S = 5.0  # a real forward proves health for so long
BUSY_S = 60.0  # a batch that takes longer is taken for a hang


class TorchEngine:
    """One model on one device. Serves Pool, Logprobs and Generate calls, as its head allows."""

    def __init__(
        self,
        path: Path,
        checkpoint: Checkpoint,
        forward: Forward,
        card: EngineCard,
        max_batch_tokens: int,
    ) -> None:
        self.card = card
        self._manifest = checkpoint.manifest
        self._checkpoint = checkpoint
        self._forward = forward
        config: Any = checkpoint.body.config
        self._vocabulary = config.get_text_config().vocab_size
        self._renderer = Renderer(path, checkpoint.manifest, self._vocabulary)
        self._ends = end_ids(checkpoint.lm, self._renderer.tokenizer)
        self._encoder = EncoderForward(checkpoint, max_batch_tokens)
        self._generate = Generator(checkpoint.lm, self._ends, self._renderer.decode)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="tokenise")
        self._batcher: Batcher[Job] = Batcher(
            card.model, partial(jobs.choose, budget=max_batch_tokens), self._compute
        )
        self._healthy_until = 0.0
        self._busy_since = -math.inf

    def supports(self, call: type[Call[Any]], task: str | None = None) -> bool:
        if call is Pool:
            return bool(self._manifest.kind == task)
        return call in (Logprobs, Generate) and self._manifest.kind == "lm"

    async def run(self, calls: Sequence[Call[Any]], scope: Scope) -> list[Output | Failure]:
        prepared = await self._threaded(partial(self._prepare, calls, scope))
        outcomes = await self._batcher.run(prepared, scope)
        if scope.explain:
            outcomes = await self._threaded(partial(self._explain, prepared, outcomes))
        return outcomes

    async def health(self) -> None:
        """A forward of three tokens, unless one has just succeeded or is being computed.

        A busy device is a healthy one: under load a test would wait behind the batch, and the load
        balancer would take the server away when it is needed most. Past BUSY_S it counts as stuck.
        """
        now = time.monotonic()
        if now < self._healthy_until or now - self._busy_since < BUSY_S:
            return
        input_ = Input(Prompt(token_ids=[1, 2, 3]))
        call = Logprobs("health", input_) if self._manifest.kind == "lm" else Pool("health", input_)
        job = ReadJob(call, Rendered([1, 2, 3]), Tokens([1, 2, 3]), np.array([2]))
        outcome = (await self._batcher.run([job], Scope()))[0]
        if isinstance(outcome, Failure):
            raise EngineUnavailable(f"a test forward failed: {outcome.error.message}")

    async def aclose(self) -> None:
        await asyncio.to_thread(self._batcher.close)
        self._threads.shutdown(wait=False)

    async def _threaded(self, work: Callable[[], T]) -> T:
        """Run `work` in the tokenising thread."""
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError as error:
            raise EngineUnavailable("the engine is closed") from error
        return await running

    def _prepare(self, calls: Sequence[Call[Any]], scope: Scope) -> list[Job | Failure]:
        """Render, tokenise and check; in a thread."""
        inputs = [getattr(call, "input", Input(Prompt(token_ids=[0]))) for call in calls]
        rendered = self._renderer.render(inputs, scope.truncate)
        return [self._job(call, r) for call, r in zip(calls, rendered, strict=True)]

    def _job(self, call: Call[Any], rendered: Rendered | RewarddError) -> Job | Failure:
        try:
            if not self.supports(type(call), getattr(call, "task", None)):
                raise UnsupportedCall(_unsupported(call, self.card))
            if isinstance(rendered, RewarddError):
                raise rendered
            if isinstance(call, Pool):
                return jobs.pool_job(call, rendered)
            if isinstance(call, Logprobs):
                labels = tuple(self._renderer.label_id(label) for label in call.labels)
                return jobs.logprobs_job(call, rendered, labels)
            assert isinstance(call, Generate)
            return jobs.generate_job(call, rendered, self._manifest.max_length)
        except RewarddError as error:
            return Failure(to_info(error))

    def _compute(self, batch: Sequence[Job], waited: Sequence[float]) -> list[Output | Failure]:
        """One batch of one kind; on the device's thread."""
        started = self._busy_since = time.monotonic()
        try:
            values, computed = self._values(batch)
        except torch.OutOfMemoryError:
            pass  # leave the handler first: its traceback holds the tensors to be freed
        else:
            now = time.monotonic()
            self._healthy_until, took = now + HEALTH_S, (now - started) * 1e3
            outcomes: list[Output | Failure] = []
            for job, value, tokens, wait in zip(batch, values, computed, waited, strict=True):
                sampled = len(value.token_ids) if isinstance(value, Sample) else 0
                usage = self._usage(job.rendered, sampled, tokens, wait, took)
                outcomes.append(self._output(job, value, usage))
            return outcomes
        finally:
            self._busy_since = -math.inf
        torch.cuda.empty_cache()
        raise OutOfMemory("the device ran out of memory on this input")

    def _values(self, batch: Sequence[Job]) -> tuple[list[Any], list[int]]:
        """What each job's output is made of, and the tokens computed for it."""
        samplings = [job.sampling for job in batch if isinstance(job, GenerateJob)]
        if samplings:
            samples = self._generate(samplings)
            prompts = [one.token_ids for one in samplings]
            first = {prompt: index for index, prompt in reversed(list(enumerate(prompts)))}
            return list(samples), [
                (len(prompt) if first[prompt] == index else 0) + len(sample.token_ids)
                for index, (prompt, sample) in enumerate(zip(prompts, samples, strict=True))
            ]
        reads = [job for job in batch if isinstance(job, ReadJob)]
        if not self._manifest.causal:
            return self._encoder([job.rendered for job in reads])
        with torch.inference_mode():
            states = self._forward([Read(job.tokens, job.positions) for job in reads])
            return self._read_out(reads, states), [state.computed for state in states]

    def _read_out(self, reads: list[ReadJob], states: list[States]) -> list[Any]:
        if self._manifest.kind == "lm":
            return [self._logprobs(job, s.hidden) for job, s in zip(reads, states, strict=True)]
        assert self._checkpoint.head is not None
        return list(readout.head_rows(self._checkpoint.head, [s.hidden for s in states]))

    def _logprobs(self, job: ReadJob, hidden: torch.Tensor) -> LogprobsOutput:
        assert isinstance(job.call, Logprobs)
        assert self._checkpoint.lm_logits is not None
        start, end = jobs.reply_span(job.call, job.rendered)
        targets = job.rendered.token_ids[start:end]
        logits = self._checkpoint.lm_logits
        scored = readout.token_logprobs(logits, hidden[: len(targets)], targets)
        return LogprobsOutput(
            token_ids=targets,
            logprobs=scored.chosen,
            labels=readout.label_logprobs(logits, hidden[-1], job.labels) if job.labels else [],
            over_vocabulary=scored.over_vocabulary if job.call.over_vocabulary else [],
            vocabulary=self._vocabulary,
        )

    def _output(self, job: Job, value: Any, usage: Usage) -> Output | Failure:
        if isinstance(value, Sample):
            return self._generated(job, value, usage)
        if isinstance(value, LogprobsOutput):
            numbers = [*value.logprobs, *value.labels, *value.over_vocabulary]
            fields = {k: getattr(value, k) for k in value.__struct_fields__}
            output: Output = LogprobsOutput(**{**fields, "usage": usage})
        else:
            numbers = [number for row in value for number in row]
            output = PoolOutput(values=value, positions=self._positions(job), usage=usage)
        return output if all(map(math.isfinite, numbers)) else _non_finite()

    def _positions(self, job: Job) -> list[int]:
        """Where the job was read; an encoder pools in a way of its own."""
        if not isinstance(job, ReadJob) or not self._manifest.causal:
            return []
        positions: list[int] = job.positions.tolist()
        return positions

    def _generated(self, job: Job, sample: Sample, usage: Usage) -> Output | Failure:
        if not sample.finite:
            return _non_finite()
        words = [token for token in sample.token_ids if token not in self._ends]
        return GenerateOutput(
            text=self._renderer.tokenizer.decode(words, skip_special_tokens=True),
            token_ids=sample.token_ids,
            logprobs=sample.logprobs,
            finish_reason="stop" if sample.finished else "length",
            usage=usage,
        )

    def _usage(
        self, rendered: Rendered, sampled: int, computed: int, waited: float, took: float
    ) -> Usage:
        bos = self._renderer.tokenizer.bos_token_id
        total = len(rendered.token_ids) + sampled
        return Usage(
            tokens_total=total,
            tokens_computed=computed,
            tokens_reused=total - computed,
            tokens_dropped=rendered.dropped,
            bos_count=0 if bos is None else rendered.token_ids[:2].count(bos),
            truncated=rendered.dropped > 0,
            queue_ms=round(waited, 3),
            compute_ms=round(took, 3),
        )

    def _explain(
        self, prepared: list[Job | Failure], outcomes: list[Output | Failure]
    ) -> list[Output | Failure]:
        """Add what the model read to each output."""
        return [
            outcome
            if isinstance(job, Failure) or isinstance(outcome, Failure)
            else self._seen(job, outcome)
            for job, outcome in zip(prepared, outcomes, strict=True)
        ]

    def _seen(self, job: Job, output: Output) -> Output:
        ids = job.rendered.token_ids
        seen = Seen(job.call.role, self._renderer.decode(ids), ids, self._positions(job))
        fields = {key: getattr(output, key) for key in output.__struct_fields__}
        return type(output)(**{**fields, "seen": seen})


def end_ids(lm: Any, tokenizer: Any) -> frozenset[int]:
    """The ids that end a continuation: what the generation config and the tokenizer say."""
    stated = getattr(getattr(lm, "generation_config", None), "eos_token_id", None)
    ends = stated if isinstance(stated, list) else [stated]
    return frozenset(end for end in [*ends, tokenizer.eos_token_id] if end is not None)


def _unsupported(call: Call[Any], card: EngineCard) -> str:
    asked = f"{type(call).__name__}({getattr(call, 'task', '')})".replace("()", "")
    return f"the role `{call.role}` asks {asked}, which `{card.model}` ({card.head}) cannot serve"


def _non_finite() -> Failure:
    return Failure(NonFinite("the model gave NaN or infinity for this input").info)
