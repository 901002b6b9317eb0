"""The demo's figures from plain data: what was sampled, and what the reward models said of it.

Pure Python, so that the same code judges a training run and the running service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from rewardd.demo.data import Problem, extract_answer, first_error

THRESHOLD = 0.5
"""A step is taken for wrong when its reward is below this."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A sampled reply with its rewards."""

    text: str
    reward: float
    """From the outcome model; only the order within one problem matters."""
    step_rewards: tuple[float, ...]
    """From the process model, one a line: the probability that all is right up to there."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A problem with the replies sampled at temperature 1 (16 for the figures) and the greedy one."""

    problem: Problem
    replies: tuple[Judged, ...]
    greedy: str

    def right(self, text: str) -> bool:
        """Return whether a reply ends in the right answer."""
        return extract_answer(text) == self.problem.answer


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    """Return every figure of the demo, each a mean over problems but for first errors."""

    def mean(value: Callable[[Sample], float]) -> float:
        return fmean(value(sample) for sample in samples)

    single, best, reach = mean(_single), mean(_best), mean(_reach)
    wrong_found, right_cleared = _first_errors(samples)
    return {
        "problems": len(samples),
        "pair_accuracy": fmean(pair for sample in samples for pair in _pairs(sample)),
        "first_error_accuracy": (wrong_found + right_cleared) / 2,
        "first_error_wrong_chains": wrong_found,
        "first_error_right_chains": right_cleared,
        "single_accuracy": single,
        "greedy_accuracy": mean(lambda sample: sample.right(sample.greedy)),
        "majority_16_accuracy": mean(_majority),
        "best_of_16_accuracy": best,
        "pass_at_16": reach,
        "gap_closed": (best - single) / (reach - single),
    }


def _single(sample: Sample) -> float:
    return fmean(sample.right(reply.text) for reply in sample.replies)


def _best(sample: Sample) -> float:
    """Return whether the reply of highest reward, the first of equals, is right."""
    return sample.right(max(sample.replies, key=lambda reply: reply.reward).text)


def _reach(sample: Sample) -> float:
    return any(sample.right(reply.text) for reply in sample.replies)


def _majority(sample: Sample) -> float:
    """Return whether the commonest answer, the first of equals, is right."""
    answers = (extract_answer(reply.text) for reply in sample.replies)
    votes = Counter(answer for answer in answers if answer is not None)
    return bool(votes) and votes.most_common(1)[0][0] == sample.problem.answer


def _pairs(sample: Sample) -> Iterator[float]:
    """Yield one figure where a problem has right and wrong replies: the share of its pairs in order.

    Equal to the chance that one right and one wrong reply drawn from it are told apart; a tie is half.
    """
    right = [reply.reward for reply in sample.replies if sample.right(reply.text)]
    wrong = [reply.reward for reply in sample.replies if not sample.right(reply.text)]
    if right and wrong:
        yield fmean((r > w) + (r == w) / 2 for r in right for w in wrong)


def _first_errors(samples: Sequence[Sample]) -> tuple[float, float]:
    """Return the share of wrong chains whose first error is found at its exact line, and of as many
    right chains in which none is found. Wrong is a chain with a wrong step; right one with none that
    reaches the answer. Chains count in order, the same number of both."""
    found: list[bool] = []
    cleared: list[bool] = []
    for sample in samples:
        for reply in sample.replies:
            truth = first_error(sample.problem, reply.text.split("\n"))
            said = predicted_error(reply.step_rewards)
            if truth is not None:
                found.append(said == truth)
            elif sample.right(reply.text):
                cleared.append(said is None)
    count = min(len(found), len(cleared))
    return fmean(found[:count]), fmean(cleared[:count])


def predicted_error(step_rewards: Sequence[float]) -> int | None:
    """Return the index of the first step below the threshold, or None."""
    wrong = (index for index, reward in enumerate(step_rewards) if reward < THRESHOLD)
    return next(wrong, None)
