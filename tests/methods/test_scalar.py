"""The raw logit of a sequence classifier."""

import pytest

from rewardd.core.calls import Input, Pool, PoolOutput, Prompt, Reply
from rewardd_types import Message
from tests.methods.canned import group_of, run

FALCON = PoolOutput(values=[[-3.25, 18.5, 0.5]])


def test_the_value_is_the_logit_without_a_sigmoid() -> None:
    reward = run("scalar", group_of("a"), lambda call: PoolOutput(values=[[21.75]])).rewards[0]
    assert reward.value == 21.75


def test_the_model_reads_prompt_and_response() -> None:
    asked: list[Pool] = []

    def answer(call: Pool) -> PoolOutput:
        asked.append(call)
        return PoolOutput(values=[[0.0]])

    run("scalar", group_of("a"), answer)
    prompt = Prompt(messages=[Message(role="user", content="q")])
    assert asked == [Pool("reward", Input(prompt, Reply(content="a")))]


def test_of_several_labels_one_must_be_chosen() -> None:
    reward = run("scalar", group_of("a"), lambda call: FALCON).rewards[0]
    assert reward.error is not None
    assert (reward.value, reward.error.code) == (None, "invalid_request")
    assert run("scalar", group_of("a"), lambda call: FALCON, label=1).rewards[0].value == 18.5


@pytest.mark.parametrize("label", [3, 1000])
def test_a_label_that_is_not_there_is_an_error(label: int) -> None:
    reward = run("scalar", group_of("a"), lambda call: FALCON, label=label).rewards[0]
    assert (reward.value, reward.status) == (None, "error")
