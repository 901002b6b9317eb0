"""The final answer of a reply."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardd.core.extraction import final_answer, last_boxed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}", "42"),
        (r"first \boxed{1}, then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 3\}}", r"\{1, 3\}"),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),
        (r"\boxed {7} done", "7"),
        (r"The answer is 5. But \boxed{6}", "6"),
        (r"\boxed{8} and then \boxed{9", "8"),
        ("a\nThe answer is $\\frac{1}{2}$.\n", r"\frac{1}{2}"),
        ("a\n**Answer:** 12", "12"),
        ("a\n**Answer:** 5", "5"),
        ("a\n**Answer**: 5", "5"),
        ("a\n**The answer is $5$.**", "5"),
        ("a\n**The answer is 2**3**.", "2**3"),
        ("Final answer: **13**", "13"),
        ("9 * 2 = 18\n#### 18", "18"),
        ("the answer is 1\nno, the answer is 2", "2"),
        (" 42 ", "42"),
        (r"\(x+1\)", "x+1"),
        ("-3.5", "-3.5"),
    ],
)
def test_answers_that_are_found(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n ",
        "What is 2 + 2?\nLet me think: 2 + 2 is 4",
        r"it is \boxed{}",
        "x" * 101,
        "the answerable is 3\nno",
    ],
)
def test_a_reply_without_an_answer_has_none(text: str) -> None:
    assert final_answer(text) is None


@given(st.text(alphabet="{}\\boxed 1", max_size=80))
def test_a_box_is_balanced(text: str) -> None:
    found = last_boxed(text)
    if found is not None:
        assert "{" + found + "}" in text


@given(st.text(alphabet="ab1+ ", max_size=30))
def test_what_is_boxed_is_found(inside: str) -> None:
    assert last_boxed(rf"text {{ \boxed{{1}} \boxed{{{inside}}} text }}") == inside


@pytest.mark.parametrize("unit", ["\\boxed{", "answer is ", "####", "{", "answer:" + " " * 50])
def test_a_hostile_reply_takes_linear_time(unit: str) -> None:
    text = unit * (400_000 // len(unit))
    begun = time.perf_counter()
    final_answer(text + "\nx")
    assert time.perf_counter() - begun < 10  # quadratic would be hours
