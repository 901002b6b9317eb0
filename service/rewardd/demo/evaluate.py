"""The demo's figures from plain data: what was sampled, and what the reward models said of it.

Pure Python, so that the same code judges a training run and the running service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean
from typing import cast

from rewardd.demo.data import Problem, extract_answer, first_error

THRESHOLD = 0.5
"""A step is taken for wrong when its reward is below this."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One problem, what the generator wrote to it and what the reward models said of that."""

    problem: Problem
    texts: Sequence[str]
    """Replies at temperature 1; 16 for the figures."""
    greedy: str
    outcome: Sequence[float | None]
    """A reward a text; only their order within the problem matters."""
    steps: Sequence[Sequence[float | None]]
    """A reward a line of each text: the probability that all is right up to there."""

    def __post_init__(self) -> None:
        rewards = [*self.outcome, *(reward for row in self.steps for reward in row)]
        if None in rewards or not len(self.texts) == len(self.outcome) == len(self.steps):
            raise ValueError(f"a reward is missing for {self.problem.text!r}")

    def right(self, text: str) -> bool:
        """Return whether a text ends in the right answer."""
        return extract_answer(text) == self.problem.answer

    def scored(self) -> list[tuple[float, bool]]:
        """Return reward and rightness of each text."""
        rewards = cast(Sequence[float], self.outcome)
        return [(r, self.right(text)) for r, text in zip(rewards, self.texts, strict=True)]


def figures(samples: Sequence[Sampled]) -> dict[str, float]:
    """Return every figure of the demo, each a mean over problems but for first errors."""

    def mean(value: Callable[[Sampled], float]) -> float:
        return fmean(map(value, samples))

    single, best, reach = mean(_single), mean(_best), mean(_reach)
    wrong_found, right_cleared = _first_errors(samples)
    return {
        "problems": len(samples),
        "pair_accuracy": _mean(pair for sample in samples for pair in _pairs(sample)),
        "first_error_accuracy": (wrong_found + right_cleared) / 2,
        "first_error_wrong_chains": wrong_found,
        "first_error_right_chains": right_cleared,
        "single_accuracy": single,
        "greedy_accuracy": mean(lambda sample: sample.right(sample.greedy)),
        "majority_16_accuracy": mean(_majority),
        "best_of_16_accuracy": best,
        "pass_at_16": reach,
        "gap_closed": (best - single) / (reach - single) if reach > single else nan,
    }


def _single(sample: Sampled) -> float:
    return fmean(sample.right(text) for text in sample.texts)


def _best(sample: Sampled) -> float:
    """Return whether the text of highest reward, the first of equals, is right."""
    return max(sample.scored(), key=lambda scored: scored[0])[1]


def _reach(sample: Sampled) -> float:
    return any(sample.right(text) for text in sample.texts)


def _majority(sample: Sampled) -> float:
    """Return whether the commonest answer, the first of equals, is right."""
    answers = map(extract_answer, sample.texts)
    votes = Counter(answer for answer in answers if answer is not None)
    return bool(votes) and votes.most_common(1)[0][0] == sample.problem.answer


def _pairs(sample: Sampled) -> Iterator[float]:
    """Yield, where a problem has right and wrong texts, the share of its pairs in right order.

    That is the chance that one right and one wrong text drawn from it are told apart; a tie is
    half.
    """
    right = [reward for reward, is_right in sample.scored() if is_right]
    wrong = [reward for reward, is_right in sample.scored() if not is_right]
    if right and wrong:
        yield fmean((r > w) + (r == w) / 2 for r in right for w in wrong)


def _first_errors(samples: Sequence[Sampled]) -> tuple[float, float]:
    """Return the share of wrong chains whose first error is found, and of right ones let pass.

    A wrong chain has a wrong step and counts where that step's exact line is found; a right one has
    none and reaches the answer. Both count in order of sampling, the same number of each.
    """
    found: list[bool] = []
    passed: list[bool] = []
    for sample in samples:
        for text, rewards in zip(sample.texts, sample.steps, strict=True):
            truth = first_error(sample.problem, text.split("\n"))
            predicted = predicted_error(cast(Sequence[float], rewards))
            if truth is not None:
                found.append(predicted == truth)
            elif sample.right(text):
                passed.append(predicted is None)
    count = min(len(found), len(passed))
    return _mean(found[:count]), _mean(passed[:count])


def predicted_error(step_rewards: Sequence[float]) -> int | None:
    """Return the index of the first step below the threshold, or None."""
    wrong = (index for index, reward in enumerate(step_rewards) if reward < THRESHOLD)
    return next(wrong, None)


def _mean(values: Iterable[float]) -> float:
    """Return the mean, NaN of nothing: a generator that never errs leaves no pair to judge."""
    held = list(values)
    return fmean(held) if held else nan
