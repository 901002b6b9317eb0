"""Label probabilities."""

import math

import pytest

from rewardd.core.logprobs import read_labels


def test_the_share_and_the_mass_of_two_labels() -> None:
    reading = read_labels([math.log(0.6), math.log(0.2)])
    assert reading.probability == pytest.approx(0.75)
    assert reading.mass == pytest.approx(0.8)


def test_the_worked_log_probabilities() -> None:
    assert read_labels([-0.2, -1.8]).probability == pytest.approx(0.832018, abs=1e-6)


def test_masses_too_small_for_a_float_still_have_a_share() -> None:
    reading = read_labels([-1000.0, -1001.0])
    assert reading.mass == 0.0
    assert reading.probability == pytest.approx(0.7310586)
