"""Composition with weights and gates."""

from typing import Any

import pytest

from rewardd.core.calls import Failure, Output, Score, ScoreOutput
from rewardd.core.flow import Machine
from rewardd.errors import EngineUnavailable, InvalidRequest, Unscorable
from rewardd_types import GroupReward, Reward, Seen, StepReward
from tests.methods.canned import SPECS, group_of, run


def models(**values: Any) -> Any:
    """Each model gives its value to every response; an exception fails the call."""

    def answer(call: Score) -> Output | Failure:
        value = values[call.role]
        if isinstance(value, EngineUnavailable):
            return Failure(value.info)
        rewards = [
            value if isinstance(value, Reward) else Reward(id=r.id, value=value)
            for r in call.group.responses
        ]
        return ScoreOutput(reward=GroupReward(rewards=rewards, preference=[[0.5]]))

    return answer


def one(answer: Any, **params: Any) -> Reward:
    return run("weighted", group_of("a"), answer, **params).rewards[0]


LOST = Reward(status="unscorable", error=Unscorable("empty").info)
GATED: dict[str, Any] = {
    "models": {"format": 1.0, "outcome": 2.0, "thinking": 0.0},
    "gates": [{"model": "outcome", "min": 0.5}],
    "gated_value": -1.0,
}


def test_the_weighted_sum_and_its_components() -> None:
    """Weights 1, 2, 0.5 of 1, 0.5, 0.4: 1 + 1 + 0.2 = 2.2."""
    answer = models(a=1.0, b=0.5, c=0.4)
    reward = one(answer, models={"a": 1.0, "b": 2.0, "c": 0.5})
    assert reward.value == pytest.approx(2.2)
    assert reward.components == {"a": 1.0, "b": 0.5, "c": 0.4}
    assert reward.metrics == {"gated": 0.0, "num_missing": 0.0}


def test_a_weight_of_nought_reports_and_does_not_count() -> None:
    reward = one(models(a=1.0, b=9.0), models={"a": 1.0, "b": 0.0})
    assert (reward.value, reward.components["b"]) == (1.0, 9.0)


def test_the_whole_group_is_asked_of_all_models_in_one_round() -> None:
    spec, group = SPECS["weighted"], group_of("a", "b")
    machine = Machine(spec.flow(group, spec.parse({"models": {"x": 1.0, "y": 1.0}}, None)))
    assert [call for _, call in machine.take()] == [Score("x", group), Score("y", group)]
    machine.close()


def test_a_closed_gate_gives_the_configured_value() -> None:
    closed = one(models(format=1.0, outcome=0.4, thinking=0.9), **GATED)
    opened = one(models(format=1.0, outcome=0.5, thinking=0.9), **GATED)
    assert (closed.value, closed.metrics["gated"]) == (-1.0, 1.0)
    assert (opened.value, opened.metrics["gated"]) == (2.0, 0.0)
    assert closed.components["outcome"] == 0.4


@pytest.mark.parametrize(
    "params",
    [
        {**GATED, "gated_value": None},
        {**GATED, "gates": [{"model": "nobody", "min": 0.0}]},
        {"models": {}},
        {"models": {f"m{i}": 1.0 for i in range(17)}},
        {"models": {"a": 1e9}},
    ],
)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        SPECS["weighted"].parse(params, None)


def test_the_first_model_in_order_that_failed_gives_the_error() -> None:
    answer = models(a=1.0, b=LOST, c=EngineUnavailable("down"))
    reward = one(answer, models={"a": 1.0, "b": 1.0, "c": 1.0})
    assert (reward.value, reward.status) == (None, "unscorable")
    assert reward.error is not None
    assert reward.error.message == "`b`: empty"
    assert reward.components == {"a": 1.0, "b": None, "c": None}
    assert reward.metrics == {"gated": None, "num_missing": 2.0}


def test_an_unavailable_model_stays_retryable() -> None:
    reward = one(models(a=EngineUnavailable("down")), models={"a": 1.0})
    assert reward.error is not None
    assert (reward.error.code, reward.error.retryable) == ("engine_unavailable", True)


def test_skip_leaves_a_missing_model_out_and_says_so() -> None:
    reward = one(models(a=1.0, b=LOST), models={"a": 1.0, "b": 1.0}, missing="skip")
    assert (reward.value, reward.status) == (1.0, "ok")
    assert reward.metrics["num_missing"] == 1.0


def test_skip_invents_nothing_when_every_model_is_missing() -> None:
    reward = one(models(a=LOST, b=LOST), models={"a": 1.0, "b": 1.0}, missing="skip")
    assert (reward.value, reward.status) == (None, "unscorable")


def test_a_gate_that_cannot_be_read_is_never_skipped() -> None:
    answer = models(format=1.0, outcome=LOST, thinking=0.9)
    reward = one(answer, **GATED, missing="skip")
    assert (reward.value, reward.status) == (None, "unscorable")


def test_one_failed_response_spares_its_siblings() -> None:
    def answer(call: Score) -> Output:
        rewards = [Reward(id="r0", value=2.0), LOST, Reward(id="r2", value=3.0)]
        return ScoreOutput(reward=GroupReward(rewards=rewards))

    rewards = run("weighted", group_of("a", "b", "c"), answer, models={"m": 1.0}).rewards
    assert [(r.id, r.value) for r in rewards] == [("r0", 2.0), ("r1", None), ("r2", 3.0)]


def test_steps_and_preferences_are_not_passed_on_but_what_was_read_is() -> None:
    seen = Seen(role="reward", text="t", token_ids=[1], positions=[0])
    part = Reward(value=1.0, steps=[StepReward(value=1.0)], seen=[seen])
    group = run("weighted", group_of("a"), models(a=part, b=part), models={"a": 1.0, "b": 1.0})
    assert group.preference is None
    assert group.rewards[0].steps is None
    assert group.rewards[0].seen == [seen, seen]


def test_a_model_that_miscounts_fails_the_group() -> None:
    answer = lambda call: ScoreOutput(reward=GroupReward(rewards=[]))  # noqa: E731
    with pytest.raises(Exception, match="0 rewards of 1"):
        run("weighted", group_of("a"), answer, models={"a": 1.0})


def test_the_models_it_uses_are_known_at_the_start() -> None:
    spec = SPECS["weighted"]
    assert list(spec.uses(spec.parse({"models": {"a": 1.0, "b": 0.0}}, None))) == ["a", "b"]
