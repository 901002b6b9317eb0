"""Train the three demo models: `python -m rewardd.demo.train [--out DIR] [--seed N]`.

Five stages, seeds fixed; the last line printed is a JSON object with the figures.

1. A Qwen3 body learns to write solutions. On the way, when it is right a bit under half of the
   time, it is saved as the generator: imperfect, so that choosing has something to win.
2. The generator is sampled on training problems; the exact checker labels what it wrote.
3. The Qwen3 body goes on as the outcome model, on these samples, corrupted and right solutions.
4. The outcome model's body, converted to Qwen2, learns to judge every step: the process model.
5. The figures are measured on held-out problems, as `rewardd demo` does.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from rewardd.demo import data, tokenizer, train_models, train_sampling
from rewardd.demo.figures import measure
from rewardd.demo.train_examples import (
    IGNORE,
    Batch,
    Chain,
    Form,
    batches,
    right_chain,
)
from rewardd.demo.train_loop import Schedule, fit, judging_loss, writing_loss
from rewardd.demo.train_models import Judge, Writer
from rewardd.engines.manifest import write_manifest
from rewardd.engines.torch.check import check_model

WEIGHTS = Path(__file__).with_name("weights")

GENERATOR_TARGET = 0.42
"""Where the generator is taken: the mean probability it gives to the reference solution."""
WRITING = Schedule(num_steps=1300, matrix_rate=2e-2)
JUDGING = {
    "outcome": Schedule(num_steps=1000, matrix_rate=1e-2),
    "process": Schedule(num_steps=1000, matrix_rate=5e-3),
}
ROWS = 64
SAMPLED_PROBLEMS, SAMPLES_EACH = 6000, 4

# Offsets that keep the streams of one training apart.
_CHECK, _SAMPLED, _OUTCOME, _PROCESS = 1, 2, 3, 4


def main() -> None:
    """Train, save, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m rewardd.demo.train")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the three folders go")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(2)
    started = time.monotonic()
    train(options.out, options.seed)
    minutes = (time.monotonic() - started) / 60
    for name in ("generator", "outcome", "process"):
        path = options.out / name
        write_manifest(path / "rewardd.json", check_model(path))
    figures = measure(options.out)
    card = {
        "seed": options.seed,
        "train_minutes": round(minutes, 1),
        "weights_mb": round(megabytes(options.out), 2),
        **{name: round(value, 4) for name, value in figures.items()},
    }
    (options.out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(card))


def megabytes(directory: Path) -> float:
    """Return the size of the three models with their tokenizers."""
    return sum(path.stat().st_size for path in directory.glob("*/*")) / 1e6


def train(out: Path, seed: int) -> None:
    """Run stages 1 to 4 and write generator, outcome and process into `out`."""
    tokenizer.write(out / "generator")
    fast = Tokenizer.from_file(str(out / "generator" / "tokenizer.json"))
    writer = train_writer(seed, fast, out / "generator")
    samples = sampled_chains(out / "generator", seed, fast)
    outcome = Judge(writer, train_models.outcome_head())
    train_judge("outcome", outcome, "chat", seed + _OUTCOME, samples, fast)
    train_models.save_judge(outcome, "Qwen3ForSequenceClassification", 1, out / "outcome")
    stepwise = next(batches(judged_chains(seed + _PROCESS, samples), "steps", fast, ROWS))
    process = train_models.converted(outcome, train_models.process_head(), stepwise.ids)
    train_judge("process", process, "steps", seed + _PROCESS, samples, fast)
    train_models.save_judge(process, "Qwen2ForProcessRewardModel", 2, out / "process")


def train_writer(seed: int, fast: Tokenizer, early: Path) -> Writer:
    """Return a body that writes solutions; save it early in `early`, as the generator."""
    torch.manual_seed(seed)
    writer = Writer()
    stream = batches(solutions(seed, WRITING.num_steps * ROWS), "chat", fast, ROWS)
    capture = EarlyCapture(writer, early, checks(seed + _CHECK, fast))
    fit("writing", writer, writing_loss(writer), stream, WRITING, capture)
    return writer


def train_judge(
    name: str, judge: Judge, form: Form, seed: int, samples: Sequence[Chain], fast: Tokenizer
) -> None:
    stream = batches(judged_chains(seed, samples), form, fast, ROWS)
    fit(f"judging {name}", judge, judging_loss(judge), stream, JUDGING[name])


# What is read


def checks(seed: int, fast: Tokenizer) -> list[Batch]:
    """Return reference solutions of 512 training problems, to watch the generator on."""
    problems = itertools.islice(data.problems(seed), 512)
    return list(batches(map(right_chain, problems), "chat", fast, 128))


def solutions(seed: int, num_chains: int) -> Iterator[Chain]:
    """Yield right chains without end, short ones first: one operation more each twelfth part."""
    rng = random.Random(seed)
    for index in itertools.count():
        longest = min(data.MAX_OPERATIONS, 1 + 12 * index // num_chains)
        fewest = 1 if longest < data.MAX_OPERATIONS else data.MIN_OPERATIONS
        yield right_chain(data.generate(rng, "train", rng.randint(fewest, longest)))


def sampled_chains(generator: Path, seed: int, fast: Tokenizer) -> list[Chain]:
    """Return what the saved generator writes to training problems."""
    model = train_sampling.load_generator(generator)
    problems = list(itertools.islice(data.problems(seed + _SAMPLED), SAMPLED_PROBLEMS))
    replies = train_sampling.sample(model, fast, problems, SAMPLES_EACH, seed + _SAMPLED)
    return [
        Chain(problem, tuple(text.split("\n")))
        for problem, texts in zip(problems, replies, strict=True)
        for text in texts
    ]


def judged_chains(seed: int, samples: Sequence[Chain]) -> Iterator[Chain]:
    """Yield chains to judge without end: half sampled, the rest corrupted or right."""
    rng = random.Random(seed)
    while True:
        kind = rng.random()
        if kind < 0.50:
            yield rng.choice(samples)
            continue
        problem = data.generate(rng)
        if kind < 0.75:
            yield Chain(problem, tuple(data.miscalculate(problem, rng)))
        elif kind < 0.90:
            yield Chain(problem, tuple(data.corrupt(problem, rng)))
        else:
            yield right_chain(problem)


# The imperfect generator


class EarlyCapture:
    """Saves the writer when, on its way, it comes nearest to GENERATOR_TARGET.

    Looks at weights averaged over about 50 steps, because single steps jump about, and at the
    probability of reference solutions, which needs no sampling.
    """

    def __init__(self, writer: Writer, directory: Path, checks: Sequence[Batch]) -> None:
        self.writer, self.directory, self.checks = writer, directory, checks
        self.average = copy.deepcopy(writer)
        self.reached = 0.0

    def __call__(self, step: int) -> None:
        """Hook of `fit`."""
        if self.reached >= GENERATOR_TARGET:
            return
        self._follow()
        if step % 20:
            return
        probability = fmean(map(self._probability, self.checks))
        if abs(probability - GENERATOR_TARGET) <= abs(self.reached - GENERATOR_TARGET):
            train_models.save_writer(self.average, self.directory)
        self.reached = probability
        print(f"step {step}: probability of reference solutions {probability:.3f}", flush=True)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the writer."""
        pairs = zip(self.average.parameters(), self.writer.parameters(), strict=True)
        for average, parameter in pairs:
            average.lerp_(parameter, 0.02)

    @torch.no_grad()
    def _probability(self, batch: Batch) -> float:
        """Return the mean probability with which the average writes a batch's solutions."""
        written = batch.targets != IGNORE
        logits, _ = self.average(batch.ids, written)
        surprise = torch.zeros(batch.ids.shape)
        surprise[written] = cross_entropy(logits, batch.targets[written], reduction="none")
        return (-surprise.sum(1)).exp().mean().item()


if __name__ == "__main__":
    main()
