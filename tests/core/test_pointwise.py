"""From one response to a group."""

from typing import Any

import pytest

from rewardd.core.calls import Call, Failure, Output, Pool, PoolOutput, Prompt
from rewardd.core.calls import Input as ModelInput
from rewardd.core.flow import Flow, Machine, ask, gather, play
from rewardd.core.pointwise import pointwise
from rewardd.errors import EngineError, InputTooLong, Unscorable
from rewardd_types import Group, GroupReward, Response, Reward, Seen

SEEN = Seen(role="reward", text="t", token_ids=[1], positions=[0])


@pointwise
def length(group: Group, response: Response, scale: float) -> Flow[Reward]:
    text = response.content or ""
    output = yield from ask(Pool("reward", ModelInput(Prompt(text=text))))
    if text == "nothing":
        raise Unscorable("there is nothing")
    if text == "bug":
        raise KeyError("oops")
    return Reward(value=output.values[0][0] * scale)


def answer(call: Call[Any]) -> Output | Failure:
    assert isinstance(call, Pool)
    text = call.input.prompt.text or ""
    if text == "long":
        return Failure(InputTooLong("too long").info)
    return PoolOutput(values=[[float(len(text))]], seen=SEEN if text == "shown" else None)


def group_of(*contents: str) -> Group:
    responses = [Response(content=text, id=f"r{i}") for i, text in enumerate(contents)]
    return Group(prompt="q", responses=responses)


def rewards_of(*contents: str) -> list[Reward]:
    return play(length(group_of(*contents), 2.0), answer).rewards


def test_each_response_gets_its_own_reward_under_its_id() -> None:
    assert [(r.id, r.value) for r in rewards_of("a", "bbb")] == [("r0", 2.0), ("r1", 6.0)]


def test_no_responses_are_no_rewards() -> None:
    assert play(length(Group(prompt="q", responses=[]), 1.0), answer) == GroupReward(rewards=[])


def test_one_failure_is_one_error_and_the_siblings_finish() -> None:
    first, second, third = rewards_of("a", "long", "ccc")
    assert (first.value, third.value) == (2.0, 6.0)
    assert (second.value, second.status, second.id) == (None, "error", "r1")
    assert second.error is not None
    assert second.error.code == "input_too_long"


def test_unscorable_is_a_status_of_its_own() -> None:
    (reward,) = rewards_of("nothing")
    assert (reward.status, reward.value) == ("unscorable", None)


def test_a_bug_in_a_method_is_named_and_is_no_number() -> None:
    (reward,) = rewards_of("bug")
    assert (reward.status, reward.value) == ("error", None)
    assert reward.error is not None
    assert (reward.error.code, reward.error.message) == ("method_failed", "KeyError: 'oops'")


def test_a_method_that_forgets_its_reward_fails_that_response_only() -> None:
    @pointwise
    def forgetful(group: Group, response: Response) -> Flow[Any]:
        output = yield from ask(Pool("reward", ModelInput(Prompt(text=response.content))))
        return Reward(value=output.values[0][0]) if response.content == "a" else None

    good, bad = play(forgetful(group_of("a", "b")), answer).rewards
    assert good.value == 1.0
    assert (bad.id, bad.status, bad.value) == ("r1", "error", None)
    assert bad.error is not None
    assert (bad.error.code, "NoneType" in bad.error.message) == ("method_failed", True)


def test_what_the_model_read_is_attached_to_its_response() -> None:
    assert [reward.seen for reward in rewards_of("a", "shown")] == [None, [SEEN]]


def test_what_was_read_in_a_round_is_attached_too() -> None:
    @pointwise
    def twice(group: Group, response: Response) -> Flow[Reward]:
        call = Pool("reward", ModelInput(Prompt(text="shown")))
        yield from gather([ask(call), ask(call)])
        return Reward(value=1.0)

    assert play(twice(group_of("x")), answer).rewards[0].seen == [SEEN, SEEN]


def test_all_calls_of_a_group_are_ready_at_once() -> None:
    machine = Machine(length(group_of(*"abcdefgh"), 1.0))
    assert len(machine.take()) == 8
    machine.close()


def test_closing_reaches_the_flow_of_each_response() -> None:
    closed: list[str | None] = []

    @pointwise
    def watched(group: Group, response: Response) -> Flow[Reward]:
        try:
            yield from ask(Pool("reward", ModelInput(Prompt(text="x"))))
        finally:
            closed.append(response.id)
        return Reward()

    machine = Machine(watched(group_of("a", "b")))
    machine.close()
    assert sorted(map(str, closed)) == ["r0", "r1"]


def test_a_failure_can_be_caught_inside_the_method() -> None:
    @pointwise
    def careful(group: Group, response: Response) -> Flow[Reward]:
        try:
            yield from ask(Pool("reward", ModelInput(Prompt(text="long"))))
        except InputTooLong:
            output = yield from ask(Pool("reward", ModelInput(Prompt(text="xy"))))
            return Reward(value=output.values[0][0])
        raise EngineError("not reached")

    assert play(careful(group_of("a")), answer).rewards[0].value == pytest.approx(2.0)
