"""The task and its exact checker, on chains written by hand and on thousands drawn."""

import random
from itertools import islice

import pytest

from rewardd.demo import data
from rewardd.demo.data import Problem, corrupt, extract_answer, first_error, parse, solve

BRACKETED = "Compute (12 + 7) * 3 - 5"
SOLUTION = ["12 + 7 = 19", "19 * 3 = 57", "57 - 5 = 52", "answer: 52"]


def drawn(count: int, seed: int = 0) -> list[Problem]:
    return list(islice(data.problems(seed), count))


def values(node: data.Node) -> list[int]:
    if isinstance(node, int):
        return [node]
    return [data.evaluate(node), *values(node.left), *values(node.right)]


def test_the_reference_solution_reads_as_documented() -> None:
    problem = parse(BRACKETED)
    assert (problem.text, problem.answer, solve(problem)) == (BRACKETED, 52, SOLUTION)


def test_equal_seeds_give_equal_problems_and_other_seeds_others() -> None:
    assert drawn(200) == drawn(200)
    assert drawn(200) != drawn(200, seed=1)


@pytest.mark.parametrize("num_operations", [1, 2, 5, 9])
def test_the_length_is_controlled(num_operations: int) -> None:
    rng = random.Random(0)
    for _ in range(50):
        problem = data.generate(rng, "train", num_operations)
        assert len(solve(problem)) == num_operations + 1


def test_every_value_stays_in_range_and_python_agrees() -> None:
    for problem in drawn(2000):
        assert all(0 <= value <= data.MAX_VALUE for value in values(problem.root))
        # Independent arithmetic: the text is an expression of Python's own grammar.
        expression = compile(problem.text.removeprefix(data.PROMPT), "problem", "eval")
        assert eval(expression) == problem.answer


def test_text_and_problem_are_one_to_one() -> None:
    assert all(parse(problem.text) == problem for problem in drawn(2000))


@pytest.mark.parametrize("text", ["", "Compute", "1 +", "(1 + 2", "1 2", "1 + x", "1 + 2)", "-1"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_the_splits_are_disjoint_and_a_tenth_is_held_out() -> None:
    train = set(islice(data.problems(0, "train"), 3000))
    held_out = set(islice(data.problems(0, "held_out"), 3000))
    assert not train & held_out
    assert {data.split_of(problem) for problem in held_out} == {"held_out"}
    rng = random.Random(0)
    either = [Problem(data._draw(rng, 4)[0]) for _ in range(3000)]
    assert 0.07 < sum(data.split_of(problem) == "held_out" for problem in either) / 3000 < 0.13


def test_reference_solutions_have_no_error() -> None:
    for problem in drawn(2000):
        lines = solve(problem)
        assert first_error(problem, lines) is None
        assert extract_answer("\n".join(lines)) == problem.answer


def test_every_prefix_of_a_right_chain_is_right() -> None:
    assert [first_error(parse(BRACKETED), SOLUTION[:count]) for count in range(5)] == [None] * 5


@pytest.mark.parametrize(
    ("problem", "lines", "index"),
    [
        (BRACKETED, ["12 + 7 = 18"], 0),
        (BRACKETED, ["7 * 3 = 21"], 0),
        (BRACKETED, ["7 + 12 = 19"], 0),
        (BRACKETED, ["12 + 7 = 19", "19 - 5 = 14"], 1),
        (BRACKETED, ["12 + 7 = 19", "12 + 7 = 19"], 1),
        (BRACKETED, ["12 + 7 = 19", "answer: 52"], 1),
        (BRACKETED, ["19 * 3 = 57"], 0),
        (BRACKETED, [*SOLUTION[:3], "answer: 53"], 3),
        (BRACKETED, [*SOLUTION, "answer: 52"], 4),
        (BRACKETED, [*SOLUTION, ""], 4),
        (BRACKETED, ["", *SOLUTION], 0),
        (BRACKETED, ["12+7=19"], 0),
        (BRACKETED, ["012 + 7 = 19"], 0),
        # Errors that cancel are errors: the answer is right, the chain is not.
        (BRACKETED, ["12 + 7 = 18", "19 * 3 = 57", "57 - 5 = 52", "answer: 52"], 0),
        ("10 - 4 - 3", ["4 - 3 = 1"], 0),
        ("10 - 4 * 2", ["10 - 4 = 6"], 0),
        ("10 - 4 * 2", ["4 * 2 = 8", "8 - 10 = -2"], 1),
    ],
)
def test_the_first_wrong_line_is_found(problem: str, lines: list[str], index: int) -> None:
    assert first_error(parse(problem), lines) == index


@pytest.mark.parametrize(
    ("problem", "lines"),
    [
        ("(1 + 2) * (3 + 4)", ["3 + 4 = 7", "1 + 2 = 3", "3 * 7 = 21", "answer: 21"]),
        # The same operation twice: the first line may have meant either.
        ("(2 + 3) * 2 - (2 + 3)", ["2 + 3 = 5", "5 * 2 = 10", "2 + 3 = 5", "10 - 5 = 5"]),
        ("(2 + 3) * 2 - (2 + 3)", ["2 + 3 = 5", "2 + 3 = 5", "5 * 2 = 10", "10 - 5 = 5"]),
    ],
)
def test_any_legal_order_is_right(problem: str, lines: list[str]) -> None:
    assert first_error(parse(problem), lines) is None


def test_what_is_expected_goes_along_with_wrong_results_only() -> None:
    problem = parse("(1 + 2) * (3 + 4)")
    lines = ["1 + 2 = 5", "3 + 4 = 7", "5 * 7 = 35", "answer: 36", "answer: 35"]
    assert data.expected(problem, lines) == [
        ["1 + 2 = 3", "3 + 4 = 7"],
        ["3 + 4 = 7"],
        ["5 * 7 = 35"],
        ["answer: 35"],
        [],
    ]
    assert data.expected(problem, ["2 * 3 = 6", "1 + 6 = 7"])[1] == []


def test_a_right_line_is_an_expected_one() -> None:
    for problem in drawn(500):
        lines = solve(problem)
        assert all(
            line in at for line, at in zip(lines, data.expected(problem, lines), strict=True)
        )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1 + 2 = 3\nanswer: 3", 3),
        ("answer: 3\n", 3),
        ("1 + 2 = 3", None),
        ("answer: 3\n1 + 2 = 3", None),
        ("the answer: 3", None),
        ("answer: " + "9" * 5000, None),
        ("", None),
    ],
)
def test_only_a_last_line_that_answers_is_an_answer(text: str, answer: int | None) -> None:
    assert extract_answer(text) == answer


def test_every_corruption_is_wrong_and_every_kind_occurs() -> None:
    rng = random.Random(0)
    indices = set()
    for problem in drawn(3000):
        lines = corrupt(problem, rng)
        index = first_error(problem, lines)
        assert index is not None
        indices.add(index)
    assert indices >= {0, 1, 2, 3, 4, 5}


def test_miscalculated_chains_are_wrong_nowhere_but_in_results() -> None:
    rng = random.Random(0)
    for problem in drawn(500):
        lines = data.miscalculate(problem, rng)
        asked = [line.partition(" = ")[0] for line in lines[:-1]]
        expected = data.expected(problem, lines)
        could_be = [{line.partition(" = ")[0] for line in at} for at in expected]
        assert all(own in others for own, others in zip(asked, could_be, strict=False))
        assert lines[-1] in expected[-1]


@pytest.mark.parametrize("mistake", sorted(set(data._MISTAKES), key=lambda m: m.__name__))
def test_each_kind_of_mistake_can_be_made(mistake: data.Mistake) -> None:
    rng = random.Random(0)
    wrong = [first_error(problem, mistake(problem, rng)) is not None for problem in drawn(200)]
    # A slip may hit upon something right, and misreading may find no trap; corrupt() draws again.
    assert sum(wrong) > 40
