"""Requests that are too large: cut, asked in parts, joined as if they had been one."""

from dataclasses import replace as replace_dataclass
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rewardd_client import (
    Group,
    GroupReward,
    InvalidRequest,
    MalformedAnswer,
    PayloadTooLarge,
    Response,
    Reward,
    _rewards,
    _split,
)
from rewardd_client._encode import request_of
from rewardd_client._flow import Answer, Send
from rewardd_client._rewards import ask
from rewardd_client._split import Door, halves, join
from rewardd_types import ErrorInfo, RewardRequest
from tests.clients.server import error_body, receipt, reward_answer, reward_group
from tests.clients.simulation import Reply, Simulation, rightly

DOORS: list[Door] = ["score", "compare", "steps", "rubric"]
POINTWISE: list[Door] = ["score", "steps", "rubric"]

sizes = st.lists(st.integers(0, 9), max_size=8)


def group_sizes_to_groups(sizes: list[int]) -> list[Group]:
    """Contents of distinct lengths, so that a reward out of place is seen."""
    lengths = iter(range(1, sum(sizes) + 1))
    return [
        Group(
            id=f"g{index}",
            prompt="p",
            responses=[
                Response(id=f"r{n}", content="x" * next(lengths))
                if n % 2
                else Response(content="x" * next(lengths))
                for n in range(size)
            ],
        )
        for index, size in enumerate(sizes)
    ]


def limited(max_bytes: int) -> Simulation:
    def server(send: Send) -> Reply:
        if len(send.body or b"") > max_bytes:
            return Answer(413, {}, error_body("body_too_large"))
        return rightly(send)

    return Simulation(server)


def whole(groups: list[Group], door: Door) -> list[GroupReward]:
    return [reward_group(group, door) for group in groups]


def without_times(groups: list[GroupReward]) -> list[GroupReward]:
    """A call in parts waits and computes several times; all else must be as in one."""
    return [
        replace(g, receipts=[replace(r, queue_ms=0.0, compute_ms=0.0) for r in g.receipts])
        for g in groups
    ]


@given(sizes=sizes, max_bytes=st.integers(200, 1500), door=st.sampled_from(POINTWISE))
def test_parts_give_what_the_whole_gives(sizes: list[int], max_bytes: int, door: Door) -> None:
    groups = group_sizes_to_groups(sizes)
    simulation = limited(max_bytes)
    answer = simulation.run(ask(simulation.endpoint(), door, "m", groups, {}))
    assert without_times(answer) == without_times(whole(groups, door))


@given(sizes=st.lists(st.integers(0, 3), min_size=1, max_size=8), max_bytes=st.integers(260, 900))
def test_comparisons_are_cut_between_groups_only(sizes: list[int], max_bytes: int) -> None:
    groups = group_sizes_to_groups(sizes)
    simulation = limited(max_bytes)
    answer = simulation.run(ask(simulation.endpoint(), "compare", "m", groups, {}))
    assert answer == whole(groups, "compare")
    sent = [msgspec.json.decode(send.body or b"", type=RewardRequest) for send in simulation.sent]
    assert all(group in groups for request in sent for group in request.groups)


@given(sizes=sizes, door=st.sampled_from(DOORS))
def test_halves_are_the_whole_in_order(sizes: list[int], door: Door) -> None:
    request = request_of("m", group_sizes_to_groups(sizes), {"params": {"a": 1}, "explain": True})
    parts = halves(door, request)
    if parts is None:
        assert len(sizes) < 2
        assert door == "compare" or sum(sizes) < 2
        return
    for part in parts:
        assert replace(part.request, groups=request.groups) == request, "nothing else is lost"
        assert len(part.request.groups) > 0
    responses = [r for part in parts for group in part.request.groups for r in group.responses]
    assert responses == [r for group in request.groups for r in group.responses]


@given(sizes=sizes, door=st.sampled_from(POINTWISE))
def test_joining_mends_cutting(sizes: list[int], door: Door) -> None:
    request = request_of("m", group_sizes_to_groups(sizes), {})
    parts = halves(door, request)
    if parts is not None:
        first, second = parts
        left, right = whole(first.request.groups, door), whole(second.request.groups, door)
        joined = join(first, left, second, right)
        assert without_times(joined) == without_times(whole(request.groups, door))


def test_times_and_tokens_are_added_by_role_and_pool() -> None:
    left = GroupReward([Reward(value=1.0)], receipts=[receipt(3), receipt(5, role="judge")])
    right = GroupReward(
        [Reward(value=2.0)], receipts=[receipt(4, truncated=True, tokens_dropped=2)]
    )
    request = request_of("m", [Group(prompt="p", responses=[Response(content="a")] * 2)], {})
    first, second = halves("score", request) or pytest.fail("cannot be cut")

    (group,) = join(first, [left], second, [right])
    assert group.receipts == [
        receipt(7, truncated=True, tokens_dropped=2, queue_ms=2.0, compute_ms=4.0),
        receipt(5, role="judge"),
    ]


@pytest.mark.parametrize(
    ("left", "right", "joined"),
    [
        ("ok", "ok", "ok"),
        ("error", "error", "error"),
        ("ok", "error", "partial"),
        ("partial", "ok", "partial"),
        ("partial", "partial", "partial"),
    ],
)
def test_the_status_is_that_of_all_rewards(left: str, right: str, joined: str) -> None:
    request = request_of("m", [Group(prompt="p", responses=[Response(content="a")] * 2)], {})
    first, second = halves("score", request) or pytest.fail("cannot be cut")
    answers = [GroupReward([Reward()], status=status) for status in (left, right)]
    (group,) = join(first, answers[:1], second, answers[1:])
    assert group.status == joined


def test_a_comparison_that_is_too_large_is_refused_whole() -> None:
    groups = group_sizes_to_groups([6])
    simulation = limited(100)
    with pytest.raises(PayloadTooLarge):
        simulation.run(ask(simulation.endpoint(), "compare", "m", groups, {}))
    assert len(simulation.sent) == 1


def test_one_response_that_is_too_large_is_refused() -> None:
    simulation = limited(100)
    groups = [Group(prompt="p", responses=[Response(content="x" * 200)])]
    with pytest.raises(PayloadTooLarge):
        simulation.run(ask(simulation.endpoint(), "score", "m", groups, {}))


def test_a_scored_group_whose_model_compares_is_not_cut() -> None:
    """Its values would depend on where the cut fell."""

    def server(send: Send) -> Reply:
        if len(send.body or b"") > 150:
            return Answer(413, {}, error_body("body_too_large"))
        answer = reward_answer("/v1/rewards/compare", send.body or b"")
        return Answer(200, {}, msgspec.json.encode(answer))

    simulation = Simulation(server)
    with pytest.raises(PayloadTooLarge):
        simulation.run(ask(simulation.endpoint(), "score", "m", group_sizes_to_groups([12]), {}))


def test_weights_that_change_between_the_halves_are_refused() -> None:
    revisions = iter(["r1", "r2"])

    def server(send: Send) -> Reply:
        if len(send.body or b"") > 130:
            return Answer(413, {}, error_body("body_too_large"))
        answer = reward_answer("/v1/rewards/score", send.body or b"")
        (group,) = answer.groups
        group = replace(group, receipts=[receipt(1, revision=next(revisions))])
        return Answer(200, {}, msgspec.json.encode(replace(answer, groups=[group])))

    responses = [Response(content="x" * 30)] * 2
    simulation = Simulation(server)
    groups = [Group(prompt="p", responses=responses)]
    with pytest.raises(MalformedAnswer, match="'r1' to 'r2'"):
        simulation.run(ask(simulation.endpoint(), "score", "m", groups, {}))


def test_each_body_has_an_id_made_from_the_calls() -> None:
    simulation = limited(200)
    simulation.run(ask(simulation.endpoint(), "score", "m", group_sizes_to_groups([2] * 8), {}))
    ids = [send.headers["X-Request-Id"] for send in simulation.sent]
    assert len(set(ids)) == len(ids)
    assert all(id_.startswith(ids[0]) for id_ in ids)
    assert ids[1:3] == [f"{ids[0]}.0", f"{ids[0]}.00"]


def test_all_parts_share_one_deadline() -> None:
    simulation = limited(200)
    simulation.try_s = 1.0
    simulation.run(
        ask(simulation.endpoint(), "score", "m", group_sizes_to_groups([2] * 4), {"timeout_s": 60})
    )
    left = [send.timeout_s for send in simulation.sent]
    assert left == [60.0 - n for n in range(len(left))]


# Paths


def test_a_path_is_counted_as_the_caller_counts() -> None:
    def server(send: Send) -> Reply:
        request = msgspec.json.decode(send.body or b"", type=RewardRequest)
        if len(request.groups) > 1 or len(request.groups[0].responses) > 1:
            return Answer(413, {}, error_body("body_too_large"))
        if request.groups[0].responses[0].content == "bad":
            path = "$.groups[0].responses[0].content"
            return Answer(422, {}, error_body("invalid_request", path=path))
        return rightly(send)

    contents = [["a"], ["a", "b", "c", "bad", "e"], ["a"]]
    groups = [Group(prompt="p", responses=[Response(content=c) for c in g]) for g in contents]
    simulation = Simulation(server)
    with pytest.raises(InvalidRequest) as raised:
        simulation.run(ask(simulation.endpoint(), "score", "m", groups, {}))
    assert raised.value.path == "$.groups[1].responses[3].content"
    assert "$.groups[1].responses[3].content" in str(raised.value)


def test_so_is_the_path_of_a_single_reward() -> None:
    request = request_of("m", [Group(prompt="p", responses=[Response(content="a")] * 4)], {})
    first, second = halves("score", request) or pytest.fail("cannot be cut")
    failed = Reward(status="error", error=ErrorInfo("c", "m", False, "$.groups[0].responses[1]"))
    answers = [GroupReward([Reward(value=1.0), failed])]
    (group,) = join(first, answers, second, answers)
    paths = [reward.error and reward.error.path for reward in group.rewards]
    assert paths == [None, "$.groups[0].responses[1]", None, "$.groups[0].responses[3]"]


def test_a_path_of_the_whole_request_stays() -> None:
    part = _split.Part(request_of("m", [], {}), first_group=3)
    assert part.path_in_whole("$.params.beta") == "$.params.beta"
    assert part.path_in_whole(None) is None
    assert replace_dataclass(part, first_group=0).path_in_whole("$.groups[2]") == "$.groups[2]"


# What is known to be too large is not sent


def test_a_body_above_the_limit_is_cut_before_it_is_sent() -> None:
    simulation = limited(10**9)
    groups = group_sizes_to_groups([2] * 8)
    with mock.patch.object(_rewards, "MAX_BODY_BYTES", 200):
        answer = simulation.run(ask(simulation.endpoint(), "score", "m", groups, {}))
    assert without_times(answer) == without_times(whole(groups, "score"))
    assert all(len(send.body or b"") <= 200 for send in simulation.sent)


def test_one_that_cannot_be_cut_is_refused_without_an_upload() -> None:
    simulation = limited(10**9)
    with mock.patch.object(_rewards, "MAX_BODY_BYTES", 100), pytest.raises(PayloadTooLarge) as e:
        simulation.run(ask(simulation.endpoint(), "compare", "m", group_sizes_to_groups([9]), {}))
    assert simulation.sent == []
    assert (e.value.status, e.value.code) == (413, "body_too_large")


def test_lists_longer_than_the_server_reads_are_cut() -> None:
    simulation = limited(10**9)
    groups = group_sizes_to_groups([3, 1, 0, 5])
    with (
        mock.patch.object(_split, "MAX_GROUPS", 2),
        mock.patch.object(_split, "MAX_RESPONSES", 2),
    ):
        answer = simulation.run(ask(simulation.endpoint(), "score", "m", groups, {}))
    assert without_times(answer) == without_times(whole(groups, "score"))


def test_a_comparison_with_too_many_responses_is_left_to_the_server() -> None:
    simulation = limited(10**9)
    with mock.patch.object(_split, "MAX_RESPONSES", 2):
        simulation.run(ask(simulation.endpoint(), "compare", "m", group_sizes_to_groups([3]), {}))
    assert len(simulation.sent) == 1
