"""What is convenient to write becomes what the wire carries."""

from typing import Any

import msgspec
import pytest

from rewardd_client import Criterion, Group, Message, Response
from rewardd_client._encode import cut_options, encode, group_of, request_of
from rewardd_types import RewardRequest

TURN = {"role": "user", "content": "7 + 5 ="}


def test_a_string_is_one_user_turn_and_a_string_is_a_response() -> None:
    assert group_of("p", ["a", Response(text="b")], {}) == Group(
        prompt="p", responses=[Response(content="a"), Response(text="b")]
    )


@pytest.mark.parametrize("prompt", [[TURN], [Message(**TURN)]])
def test_a_conversation_may_be_dicts_or_messages(prompt: list[Any]) -> None:
    assert group_of(prompt, [], {}) == Group(messages=[Message(**TURN)], responses=[])


def test_rubric_lines_may_be_strings() -> None:
    group = group_of("p", [], {"rubric": ["is polite", Criterion("lies", weight=-1.0)]})
    assert group.rubric == [Criterion("is polite"), Criterion("lies", weight=-1.0)]


def test_everything_a_method_may_read_passes() -> None:
    group = group_of("p", ["a"], {"id": "g", "reference": "12", "extra": {"k": [1]}})
    assert (group.id, group.reference, group.extra) == ("g", "12", {"k": [1]})


def test_options_of_the_call_and_fields_of_the_group_are_told_apart() -> None:
    fields, call = cut_options({"reference": "12", "explain": True, "timeout_s": 3.0})
    assert (fields, call) == ({"reference": "12"}, {"explain": True, "timeout_s": 3.0})


def test_one_string_is_not_a_list_of_letters() -> None:
    with pytest.raises(TypeError, match="`responses` is a list"):
        group_of("p", "abc", {})
    with pytest.raises(TypeError, match="`rubric` is a list"):
        group_of("p", ["a"], {"rubric": "is polite"})


def test_what_is_no_response_is_refused() -> None:
    with pytest.raises(TypeError, match="not int"):
        group_of("p", [7], {})  # type: ignore[list-item]


def test_a_misspelt_message_is_refused() -> None:
    with pytest.raises(ValueError, match="contents"):
        group_of([{"role": "user", "contents": "x"}], [], {})


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(TypeError, match="refrence"):
        group_of("p", [], {"refrence": "12"})  # type: ignore[typeddict-unknown-key]


def test_ids_that_cannot_be_told_apart_are_refused_here() -> None:
    with pytest.raises(ValueError, match="share the response id 'a'"):
        group_of("p", [Response(id="a", content="x"), Response(id="a", content="y")], {})


def test_the_body_is_what_the_server_decodes() -> None:
    request = request_of("m", [group_of("p", ["a"], {})], {"params": {"beta": 1}, "timeout_s": 3})
    body = encode(request)
    assert msgspec.json.decode(body, type=RewardRequest) == request
    assert b"timeout_s" not in body
    assert b"null" not in body, "what was not given is not sent"
