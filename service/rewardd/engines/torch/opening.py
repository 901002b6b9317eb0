"""Opening a torch engine: load, choose the forward, check the probes, and only then serve."""

import logging
from pathlib import Path
from statistics import fmean
from typing import Literal

import msgspec
import torch
import transformers

from rewardd.core.calls import (
    EngineCard,
    Input,
    Logprobs,
    LogprobsOutput,
    Pool,
    PoolOutput,
    Reply,
    Scope,
)
from rewardd.core.chat import input_of, prompt_of
from rewardd.engines.manifest import Manifest, Probe
from rewardd.engines.torch.checkpoint import load_checkpoint
from rewardd.engines.torch.detect import load_config, tokenizer_directory
from rewardd.engines.torch.directory import read_directory
from rewardd.engines.torch.engine import TorchEngine
from rewardd.engines.torch.selfcheck import Choice, choose_forward
from rewardd.errors import StartRefused
from rewardd_types import Group, Response

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TOLERANCE = {torch.float32: 5e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


async def open_torch(
    path: Path,
    manifest: Manifest,
    *,
    dtype: str = "auto",
    device: str = "auto",
    threads: int = 0,
    max_batch_tokens: int = 16_384,
    packing: Literal["auto", "off"] = "auto",
    probes: Literal["enforce", "warn"] = "enforce",
) -> TorchEngine:
    """An engine that has shown it gives the manifest's expected values.

    `dtype` "auto" is fp32 on CPU and the checkpoint's own on a GPU. StartRefused when the model is
    unfit, or a probe is missed beyond the tolerance of the dtype and `probes` is "enforce".
    """
    if threads:
        torch.set_num_threads(threads)
    place = _device(device)
    numbers = _dtype(dtype, path, place)
    checkpoint = load_checkpoint(path, manifest, dtype=numbers, device=place)
    choice = choose_forward(checkpoint.body, manifest.causal, max_batch_tokens, packing)
    card = _card(manifest, numbers, choice)
    tokenizer = tokenizer_directory(read_directory(path))
    engine = TorchEngine(tokenizer, checkpoint, choice.forward, card, max_batch_tokens)
    try:
        misses = await probe_misses(engine, manifest)
        engine.card = msgspec.structs.replace(card, parity=max(misses, default=None))
        if misses and fmean(misses) > _TOLERANCE[numbers]:
            _missed(engine.card, fmean(misses), _TOLERANCE[numbers], probes)
    except BaseException:
        await engine.aclose()
        raise
    return engine


def _card(manifest: Manifest, dtype: torch.dtype, choice: Choice) -> EngineCard:
    return EngineCard(
        engine="torch",
        engine_version=f"torch {torch.__version__}, transformers {transformers.__version__}",
        model=manifest.model,
        revision=manifest.revision,
        dtype=str(dtype).removeprefix("torch."),
        head=manifest.head,
        max_length=manifest.max_length,
        template_hash=manifest.template_hash,
        packed=choice.packed,
        packed_reason=choice.reason,
    )


async def probe_misses(engine: TorchEngine, manifest: Manifest) -> list[float]:
    """The differences between the manifest's expected values and the engine's, relative above 1.

    Their mean decides whether a model is served: in half precision a single token's
    log-probability may well be off by 0.1 in a model that is read rightly.
    """
    misses = [await _probe_misses(engine, manifest, probe) for probe in manifest.probes]
    return [miss for some in misses for miss in some]


async def _probe_misses(engine: TorchEngine, manifest: Manifest, probe: Probe) -> list[float]:
    calls = [_probe_call(manifest, probe.group, response) for response in probe.group.responses]
    misses: list[float] = []
    outcomes = await engine.run(calls, Scope())
    if len(outcomes) != len(probe.values):
        raise StartRefused(f"a probe of {manifest.model} expects values of other responses")
    for outcome, expected in zip(outcomes, probe.values, strict=True):
        if not isinstance(outcome, PoolOutput | LogprobsOutput):
            raise StartRefused(f"a probe of {manifest.model} failed: {outcome}")
        rows = outcome.values if isinstance(outcome, PoolOutput) else [outcome.logprobs]
        got = [value for row in rows for value in row]
        if len(got) != len(expected):
            raise StartRefused(
                f"a probe of {manifest.model} expects {len(expected)} values and got {len(got)};"
                " run `rewardd check` again"
            )
        misses += [abs(a - b) / max(1.0, abs(b)) for a, b in zip(got, expected, strict=True)]
    return misses


def _probe_call(manifest: Manifest, group: Group, response: Response) -> Pool | Logprobs:
    if manifest.kind == "lm":
        return Logprobs("probe", input_of(group, response))
    if manifest.kind == "classify":
        return Pool("probe", input_of(group, response))
    steps = Reply(steps=response.steps)
    return Pool("probe", Input(prompt_of(group), steps), "token_classify")


def _missed(card: EngineCard, mean: float, allowed: float, probes: str) -> None:
    message = (
        f"{card.model} misses the expected values of its manifest by {mean:.3g}"
        f" (the mean; {allowed:.0e} is allowed in {card.dtype})"
    )
    if probes == "warn":
        log.warning(message)
        return
    raise StartRefused(f"{message}; run `rewardd check` again if the model was changed on purpose")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _dtype(name: str, path: Path, device: torch.device) -> torch.dtype:
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    stored = load_config(read_directory(path)).dtype
    return stored if stored in _DTYPES.values() else torch.bfloat16
