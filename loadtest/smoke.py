"""`smoke`: 1,000 single-response requests at concurrency 64 against `rewardd serve --demo`.

Every answer must carry its own request's id and the value that the same response gets in one
grouped request; the server's resident memory may not creep.
"""

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from loadtest.report import emit, say
from rewardd.demo import data
from rewardd_client import AsyncClient, Client, Group, GroupReward, Response

MODEL = "demo-outcome"
CONCURRENCY = 64
WARM = 200  # requests after which memory is counted
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Served:
    """A server process of its own, its URL and how long it took to be ready."""

    process: psutil.Process
    url: str
    ready_s: float

    @property
    def rss_mb(self) -> float:
        return float(self.process.memory_info().rss / 2**20)


def run(quiet: bool = False, requests: int = 1000) -> dict[str, Any]:
    """Serve, ask, compare; returns the figures."""
    groups = singles(requests)
    with demo_server() as served:
        say(f"ready in {served.ready_s:.1f} s at {served.url}", quiet)
        expected = grouped_values(served.url, groups)
        asyncio.run(ask_all(served.url, groups[:WARM]))
        before = served.rss_mb
        answers = asyncio.run(ask_all(served.url, groups))
        growth = served.rss_mb - before
    figures = {
        "requests": requests,
        "wrong": sum(
            isinstance(answer, GroupReward) and is_wrong(group, answer, value)
            for group, answer, value in zip(groups, answers, expected, strict=True)
        ),
        "errors": sum(not isinstance(answer, GroupReward) for answer in answers),
        "rss_growth_mb": round(growth, 1),
        "ready_s": round(served.ready_s, 1),
    }
    emit("smoke", figures, quiet)
    return figures


def singles(count: int) -> list[Group]:
    """One response each; right, wrong and cut chains of held-out problems."""
    rng = random.Random(0)
    groups = []
    for index in range(count):
        problem = data.generate(rng, "held_out")
        lines = data.solve(problem) if rng.random() < 0.5 else data.corrupt(problem, rng)
        text = "\n".join(lines[: rng.randint(1, len(lines))])
        groups.append(Group([Response(id=f"r{index}", content=text)], f"g{index}",
                            prompt=problem.text))  # fmt: skip
    return groups


def grouped_values(url: str, groups: Sequence[Group]) -> list[float | None]:
    """The values in one request: another path through the batcher."""
    with Client(url) as client:
        answers = client.rewards.score(model=MODEL, groups=list(groups))
    return [answer.rewards[0].value for answer in answers]


async def ask_all(url: str, groups: Sequence[Group]) -> list[GroupReward | Exception]:
    gate = asyncio.Semaphore(CONCURRENCY)
    async with AsyncClient(url) as client:

        async def ask(group: Group) -> GroupReward | Exception:
            async with gate:
                try:
                    return (await client.rewards.score(model=MODEL, groups=[group]))[0]
                except Exception as error:  # counted, not raised: the run reports all of them
                    return error

        return list(await asyncio.gather(*[ask(group) for group in groups]))


def is_wrong(group: Group, answer: GroupReward, value: float | None) -> bool:
    reward = answer.rewards[0]
    same = (answer.id, reward.id) == (group.id, group.responses[0].id)
    if not same or reward.value is None or value is None:
        return True
    return abs(reward.value - value) > TOLERANCE


@contextmanager
def demo_server() -> Iterator[Served]:
    """`rewardd serve --demo` as a user starts it, on a free port."""
    command = [sys.executable, "-m", "rewardd", "serve", "--demo", "--port", "0"]
    started = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as child,
    ):
        try:
            url = _ready_url(child)
            yield Served(psutil.Process(child.pid), url, time.monotonic() - started)
        finally:
            child.terminate()
            child.wait(60)


def _ready_url(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        if "is ready: " in line:
            return line.split("is ready: ")[1].split()[0]
    raise RuntimeError(f"the server ended with {child.wait()} before it was ready")
