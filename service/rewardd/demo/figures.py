"""`rewardd demo`: what the embedded models are worth, measured through the serving engines.

Held-out problems are sampled sixteen times each by the served generator, every sample is scored by
the served outcome and process models through the runner, and the figures are computed from that.
"""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from rewardd.assembly import Service, open_service
from rewardd.config import read_config
from rewardd.core.calls import Generate, GenerateOutput, Input, Prompt, Scope
from rewardd.demo import data
from rewardd.demo.evaluate import Sampled, figures
from rewardd.demo.serving import WEIGHTS, demo_tables
from rewardd_types import Group, GroupReward, Message, Response

Figures = dict[str, float]

SAMPLES = 16
MAX_TOKENS = 96
BATCH = 16  # problems sampled and scored together


def run(json: bool = False, problems: int = 1000, seed: int = 1) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    found = {**measure(WEIGHTS, problems, seed, quiet=json), **_card()}
    _emit(found, quiet=json)
    return found


def measure(weights: Path, problems: int = 1000, seed: int = 1, quiet: bool = True) -> Figures:
    """Return the figures of the three models under `weights`."""
    return figures(asyncio.run(_sampled(weights, problems, seed, quiet)))


async def _sampled(weights: Path, count: int, seed: int, quiet: bool) -> list[Sampled]:
    service = await open_service(read_config(None, demo_tables({}, weights)))
    rng = random.Random(seed)
    problems = [data.generate(rng, "held_out") for _ in range(count)]
    batches = [problems[start : start + BATCH] for start in range(0, count, BATCH)]
    try:
        sampled: list[Sampled] = []
        for index, batch in enumerate(track(batches, "sampling and scoring", disable=quiet)):
            sampled += await _sample_and_score(service, batch, seed + 1 + index)
        return sampled
    finally:
        await service.aclose()


async def _sample_and_score(
    service: Service, problems: Sequence[data.Problem], seed: int
) -> list[Sampled]:
    texts = await _sample(service, problems, seed)
    groups = [
        Group([Response(content=text) for text in own], prompt=problem.text)
        for problem, own in zip(problems, texts, strict=True)
    ]
    outcome = await _reward(service, "demo-outcome", groups)
    process = await _reward(service, "demo-process", groups)
    return [
        Sampled(
            problem=problem,
            texts=own[:SAMPLES],
            greedy=own[SAMPLES],
            outcome=[reward.value for reward in scalar.rewards[:SAMPLES]],
            steps=[[step.value for step in r.steps or []] for r in stepped.rewards[:SAMPLES]],
        )
        for problem, own, scalar, stepped in zip(problems, texts, outcome, process, strict=True)
    ]


async def _sample(service: Service, problems: Sequence[data.Problem], seed: int) -> list[list[str]]:
    """SAMPLES texts at temperature 1 and a greedy one, for each problem."""
    calls = [
        Generate(
            "policy",
            Input(Prompt(messages=[Message("user", problem.text)])),
            seed=seed * 1_000_003 + index * (SAMPLES + 1) + sample,
            max_tokens=MAX_TOKENS,
            temperature=0.0 if sample == SAMPLES else 1.0,
        )
        for index, problem in enumerate(problems)
        for sample in range(SAMPLES + 1)
    ]
    outputs = await service.pools["demo-generator"].run(calls, Scope())
    texts = [output.text for output in outputs if isinstance(output, GenerateOutput)]
    if len(texts) != len(calls):
        raise RuntimeError(f"{len(calls) - len(texts)} samples failed")
    width = SAMPLES + 1
    return [texts[start : start + width] for start in range(0, len(texts), width)]


async def _reward(service: Service, name: str, groups: list[Group]) -> list[GroupReward]:
    return await service.runner.reward(service.runner.model(name), groups, Scope())


def _card() -> dict[str, Any]:
    """How long training took and how large its result is, as the card says."""
    import json

    card = json.loads((WEIGHTS / "card.json").read_text())
    return {name: card[name] for name in ("train_minutes", "weights_mb")}


def _emit(found: dict[str, Any], quiet: bool) -> None:
    import json

    if not quiet:
        for key, value in found.items():
            Console(highlight=False).print(f"{key:24} {value}")
    print(json.dumps({"name": "demo", "figures": found}))
