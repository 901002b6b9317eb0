"""`parity`: scores over HTTP against transformers' own (fp32, eager, batch 1).

Tiny seeded models whose weights are scaled until soft caps and windows bite. Each is asked ragged
groups with shared prompts and responses that are prefixes of each other; then the same again
permuted, split over requests and mixed with other traffic. Mutants of the packed forward must fail
the very same comparison: a check that cannot fail proves nothing.
"""

import random
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loadtest import tiny_models
from loadtest.local import serving
from loadtest.mutants import MUTANTS, Mutant
from loadtest.report import emit, say
from rewardd.engines.torch.detect import detect
from rewardd.engines.torch.reference import reference_values
from rewardd_client import Client, Group, GroupReward, Response

ARCHITECTURES = (
    "qwen2", "qwen3", "llama", "mistral", "gemma2", "phi3", "gpt_neox", "qwen3_moe", "gpt_oss",
    "bert", "modernbert", "qwen2_prm",
)  # fmt: skip
FALLBACKS = ("falcon_alibi", "bloom")
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Finding:
    """What one architecture showed: largest differences from the reference and from itself."""

    name: str
    packed: bool
    reason: str | None
    diff: float
    diff_permuted: float


def run(quiet: bool = False, groups: int = 6) -> dict[str, Any]:
    """All architectures and mutants; returns the figures."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        found = [measure(name, place, groups, quiet) for name in (*ARCHITECTURES, *FALLBACKS)]
        caught = [catch(mutant, place, groups, quiet) for mutant in MUTANTS]
    twelve = found[: len(ARCHITECTURES)]
    figures = {
        "architectures": len(twelve),
        "packed": sum(finding.packed for finding in twelve),
        "max_abs_diff": max(finding.diff for finding in found),
        "max_abs_diff_permuted": max(finding.diff_permuted for finding in found),
        "mutants": len(caught),
        "mutants_caught": sum(caught),
        "fallbacks": sum(not finding.packed for finding in found[len(ARCHITECTURES) :]),
    }
    emit("parity", figures, quiet)
    return figures


def measure(name: str, place: Path, count: int, quiet: bool) -> Finding:
    """Serve one tiny model and compare."""
    path = tiny_models.build(name, place / name)
    asked = ragged_groups(name, count)
    expected = expected_values(path, asked)
    with serving(tables(name, path), place / "data") as local, Client(local.url) as client:
        whole = ask(client, name, asked)
        others = [ask(client, name, part) for part in (asked[::-1], *[[g] for g in asked])]
        mixed = mixed_traffic(client, name, asked)
        card = local.service.pools[name].card
    again = {g.id: g for answer in [*others, mixed] for g in answer}
    permuted = max(difference(g, values_of(again[g.id])) for g in whole)
    permuted = max(permuted, shuffled_difference(whole, mixed))
    diff = max(difference(g, expected[g.id or ""]) for g in whole)
    say(f"{name:14} packed {card.packed!s:5} diff {diff:.1e} permuted {permuted:.1e}"
        f"  {card.packed_reason or ''}", quiet)  # fmt: skip
    return Finding(name, bool(card.packed), card.packed_reason, diff, permuted)


def catch(mutant: Mutant, place: Path, count: int, quiet: bool) -> bool:
    """Whether the comparison fails when the packed forward is broken in this way."""
    path = place / mutant.architecture
    asked = ragged_groups(mutant.architecture, count)
    expected = expected_values(path, asked)
    served = serving(tables(mutant.architecture, path), place / "data")
    with served as local, mutant.applied(), Client(local.url) as client:
        answers = ask(client, mutant.architecture, asked)
    diff = max(difference(g, expected[g.id or ""]) for g in answers)
    say(f"mutant {mutant.name:18} on {mutant.architecture:8} diff {diff:.1e}", quiet)
    return diff > TOLERANCE


def tables(name: str, path: Path) -> dict[str, Any]:
    """A pool and a served model of the tiny model's kind."""
    method, role = ("prm", "process") if name.endswith("prm") else ("scalar", "reward")
    return {
        "pools": {name: {"engine": "torch", "model": str(path), "dtype": "float32"}},
        "models": {name: {"method": method, "roles": {role: name}}},
    }


def ragged_groups(name: str, count: int) -> list[Group]:
    """Groups over two shared prompts: prefixes of each other, duplicates, one word, long ones."""
    rng = random.Random(0)
    prompts = [words(rng, 24), words(rng, 9)]
    return [
        Group(
            id=str(index),
            prompt=prompts[index % 2],
            responses=[reply(name, text, i) for i, text in enumerate(replies(rng))],
        )
        for index in range(count)
    ]


def words(rng: random.Random, count: int) -> str:
    return " ".join("".join(rng.choices("abcdefgh", k=rng.randint(1, 5))) for _ in range(count))


def replies(rng: random.Random) -> list[str]:
    long = words(rng, rng.randint(8, 20))
    cut = rng.randint(3, len(long) - 3)
    return [long, long[:cut], long, words(rng, 1), long[:cut] + words(rng, 4), words(rng, 12)]


def reply(name: str, text: str, index: int) -> Response:
    if name.endswith("prm"):
        return Response(id=str(index), steps=text.split(" "))
    return Response(id=str(index), content=text)


def expected_values(path: Path, groups: Sequence[Group]) -> dict[str, list[float]]:
    """By group id: one number a response (scalar), or one a step, all in a row (process)."""
    manifest = detect(path)
    rows = {group.id: reference_values(path, manifest, group) for group in groups}
    if manifest.kind == "classify":
        return {id_ or "": [row[0] for row in values] for id_, values in rows.items()}
    return {id_ or "": [p for row in values for p in right(row)] for id_, values in rows.items()}


def right(logits: list[float]) -> list[float]:
    """Pairs of logits, one a step -> probability of the second class."""
    pairs = np.asarray(logits, dtype=np.float64).reshape(-1, 2)
    return list((1 / (1 + np.exp(pairs[:, 0] - pairs[:, 1]))).tolist())


def ask(client: Client, name: str, groups: Sequence[Group]) -> list[GroupReward]:
    door = client.rewards.steps if name.endswith("prm") else client.rewards.score
    return door(model=name, groups=list(groups))


def mixed_traffic(client: Client, name: str, groups: Sequence[Group]) -> list[GroupReward]:
    """The groups with their responses shuffled, one request each at once, among strangers."""
    rng = random.Random(1)
    shuffled = [
        Group(id=g.id, prompt=g.prompt, responses=rng.sample(g.responses, len(g.responses)))
        for g in groups
    ]
    strangers = [
        Group(prompt=words(rng, 5), responses=[reply(name, words(rng, 6), 0)]) for _ in range(12)
    ]
    with ThreadPoolExecutor(8) as pool:
        other = [pool.submit(ask, client, name, [group]) for group in strangers]
        answers = list(pool.map(lambda group: ask(client, name, [group])[0], shuffled))
        for future in other:
            future.result()
    return answers


def values_of(group: GroupReward) -> list[float]:
    """All numbers of a group in the order of its response ids; a failure is not a number."""
    rewards = sorted(group.rewards, key=lambda reward: int(reward.id or 0))
    if any(reward.status != "ok" for reward in rewards):
        raise AssertionError(f"not every response was scored: {rewards}")
    return [
        number if number is not None else float("nan")
        for reward in rewards
        for number in ([s.value for s in reward.steps] if reward.steps else [reward.value])
    ]


def difference(group: GroupReward, expected: Sequence[float]) -> float:
    got = np.asarray(values_of(group))
    return float(np.abs(got - np.asarray(expected)).max())


def shuffled_difference(whole: Sequence[GroupReward], mixed: Sequence[GroupReward]) -> float:
    return max(difference(a, values_of(b)) for a, b in zip(whole, mixed, strict=True))
