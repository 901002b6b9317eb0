"""Preferences: the sigmoid at both ends, the matrix, the win rates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardd.core.preference import preference_matrix, sigmoid, win_rates

SCORES = st.lists(st.none() | st.floats(-1e4, 1e4), max_size=8)


@pytest.mark.parametrize(("x", "p"), [(0.0, 0.5), (0.8, 0.689974), (1.6, 0.832018), (3, 0.952574)])
def test_known_values(x: float, p: float) -> None:
    assert sigmoid(x) == pytest.approx(p, abs=1e-6)
    assert sigmoid(-x) == pytest.approx(1 - p, abs=1e-6)


def test_no_overflow_at_either_end() -> None:
    assert sigmoid(1e308) == 1.0
    assert sigmoid(-1e308) == 0.0
    assert 0 < sigmoid(-700) < 1e-300


@given(scores=SCORES, temperature=st.floats(0.01, 100))
def test_the_matrix_is_complementary_and_null_where_a_score_is(
    scores: list[float | None], temperature: float
) -> None:
    matrix = preference_matrix(scores, temperature)
    for i, one in enumerate(scores):
        for j, other in enumerate(scores):
            p, q = matrix[i][j], matrix[j][i]
            if one is None or other is None:
                assert p is None
            else:
                assert p is not None
                assert q is not None
                assert p + q == pytest.approx(1.0)
                assert p >= 0.5 if one > other else p <= 0.5 or one == other


def test_the_temperature_divides_the_difference() -> None:
    assert preference_matrix([2.0, 0.0], 4.0)[0][1] == pytest.approx(sigmoid(0.5))


def test_win_rates_leave_the_diagonal_and_the_failed_out() -> None:
    assert win_rates([[0.5, 0.9, 0.7], [0.1, 0.5, 0.2], [0.3, 0.8, 0.5]]) == pytest.approx(
        [0.8, 0.15, 0.55]
    )
    assert win_rates([[0.5, None, 0.7], [None] * 3, [0.3, None, 0.5]]) == [0.7, None, 0.3]
    assert win_rates([[0.5]]) == [None]
    assert win_rates([]) == []
