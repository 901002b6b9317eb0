"""Steps: spans cover exactly the step texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardd.core.steps import Step, locate_steps, split_steps
from rewardd.errors import InvalidRequest

SEPARATORS = st.sampled_from(["\n", "\n\n", "ab", " "])
CONTENTS = st.text(alphabet="ab \n\tü😀", max_size=60)


def test_lines_are_steps_and_blank_lines_are_none() -> None:
    steps = split_steps("1+1=2\n\n 2*3=6\n  \n", "\n")
    assert steps == [Step("1+1=2", 0, 5), Step(" 2*3=6", 7, 13)]


def test_empty_content_has_no_steps() -> None:
    assert split_steps("", "\n") == split_steps(" \n ", "\n") == []


def test_spans_count_characters_not_bytes() -> None:
    content = "ü😀\nb"
    assert [(s.start, s.end) for s in split_steps(content, "\n")] == [(0, 2), (3, 4)]


@given(content=CONTENTS, separator=SEPARATORS)
def test_spans_cover_exactly_the_step_texts(content: str, separator: str) -> None:
    for step in split_steps(content, separator):
        assert content[step.start : step.end] == step.text
        assert step.text.strip()


@given(content=CONTENTS, separator=SEPARATORS)
def test_nothing_but_separators_and_blanks_lies_between_spans(content: str, separator: str) -> None:
    rest, cursor = "", 0
    for step in split_steps(content, separator):
        assert step.start is not None
        assert step.end is not None
        assert step.start >= cursor
        rest += content[cursor : step.start] + "|"
        cursor = step.end
    rest += content[cursor:]
    assert not rest.replace(separator, "").replace("|", "").strip()


def test_steps_of_the_caller_are_found_in_order() -> None:
    assert locate_steps(["a", "a"], "a a") == [Step("a", 0, 1), Step("a", 2, 3)]


def test_steps_alone_have_no_span() -> None:
    assert locate_steps(["a"], None) == [Step("a")]


@pytest.mark.parametrize("texts", [["c"], ["b", "a"], ["a", "a"]])
def test_a_step_that_is_not_in_the_content_is_refused(texts: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="does not stand in `content`"):
        locate_steps(texts, "a b")


@given(content=CONTENTS, separator=SEPARATORS)
def test_steps_that_were_cut_are_found_again(content: str, separator: str) -> None:
    found = locate_steps([step.text for step in split_steps(content, separator)], content)
    assert all(content[step.start : step.end] == step.text for step in found)
