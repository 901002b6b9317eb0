"""The runner: one list a pool and tick, deadlines, cancellation, receipts, honest failures."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from rewardd.core.calls import (
    Call,
    EngineCard,
    Failure,
    Generate,
    GenerateOutput,
    Input,
    Output,
    Pool,
    PoolOutput,
    Prompt,
    Scope,
    Score,
    Usage,
)
from rewardd.core.chat import input_of
from rewardd.core.flow import Flow, ask, attempt, gather
from rewardd.core.pointwise import pointwise
from rewardd.core.registry import Method, MethodSpec, reward_method
from rewardd.errors import EngineUnavailable, InvalidRequest, StartRefused, UnknownModel
from rewardd.methods.composed.weighted import weighted
from rewardd.runner import Runner, ServedModel
from rewardd_types import Group, GroupReward, Response, Reward, StepReward

pytestmark = pytest.mark.anyio

NOW = Scope()
PATIENCE_S = 20.0


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


def spec_of(method: Any) -> MethodSpec:
    spec: MethodSpec = method.__reward_method__
    return spec


def method(name: str, roles: tuple[str, ...] = ("reward",), **options: Any) -> Any:
    """A decorator that gives the spec of a method written in a test."""

    def mark(function: Method) -> MethodSpec:
        return spec_of(reward_method(name, family="test", roles=roles, **options)(function))

    return mark


def words(call: Call[Any]) -> str:
    assert isinstance(call, Pool | Generate)
    reply = call.input.reply
    return (reply.content if reply else None) or ""


class FakeEngine:
    """The length of each reply, and a record of every list it was given."""

    def __init__(self, answer: Callable[[str], Output | Failure] | None = None) -> None:
        self.card = EngineCard("fake", "1", model="m", revision="r", dtype="float32")
        self.lists: list[list[str]] = []
        self.cancelled = 0
        self._answer = answer or (lambda text: length(text))

    def supports(self, call: type[Call[Any]], task: str | None = None) -> bool:
        return True

    async def run(self, calls: Sequence[Call[Any]], scope: Scope) -> list[Output | Failure]:
        self.lists.append([words(call) for call in calls])
        try:
            await asyncio.sleep(0)
            return await self.outcomes(calls)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def outcomes(self, calls: Sequence[Call[Any]]) -> list[Output | Failure]:
        return [self._answer(words(call)) for call in calls]

    async def health(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class HangingEngine(FakeEngine):
    """Never answers."""

    async def outcomes(self, calls: Sequence[Call[Any]]) -> list[Output | Failure]:
        await asyncio.Event().wait()
        raise AssertionError


class BrokenEngine(FakeEngine):
    """Raises what it was made with."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    async def outcomes(self, calls: Sequence[Call[Any]]) -> list[Output | Failure]:
        raise self._error


class ShortEngine(FakeEngine):
    """Forgets the last call of each list."""

    async def outcomes(self, calls: Sequence[Call[Any]]) -> list[Output | Failure]:
        return (await super().outcomes(calls))[:-1]


def length(text: str) -> PoolOutput:
    usage = Usage(tokens_total=len(text), tokens_computed=1, queue_ms=len(text), compute_ms=2.0)
    return PoolOutput(values=[[float(len(text))]], usage=usage)


@method("length")
@pointwise
def length_reward(group: Group, response: Response, params: Nothing) -> Flow[Reward]:
    output = yield from ask(Pool("reward", input_of(group, response)))
    return Reward(value=output.values[0][0])


@method("twice")
@pointwise
def twice(group: Group, response: Response, params: Nothing) -> Flow[Reward]:
    one = yield from ask(Pool("reward", input_of(group, response)))
    two = yield from ask(Pool("reward", input_of(group, response)))
    return Reward(value=one.values[0][0] + two.values[0][0])


@method("both", roles=("one", "other"))
@pointwise
def both(group: Group, response: Response, params: Nothing) -> Flow[Reward]:
    """The reply's first letter says whom it asks."""
    role = "one" if (response.content or "").startswith("1") else "other"
    output = yield from ask(Pool(role, input_of(group, response)))
    return Reward(value=output.values[0][0])


def served(spec: MethodSpec, name: str = "m", **roles: str) -> ServedModel:
    return ServedModel(name, spec, roles, {})


def runner(*models: ServedModel, **pools: Any) -> Runner:
    return Runner({model.name: model for model in models}, pools)


def group(*texts: str, id: str | None = None) -> Group:
    responses = [Response(id=f"r{n}", content=text) for n, text in enumerate(texts)]
    return Group(responses, id=id, prompt="?")


def values(rewards: Sequence[GroupReward]) -> list[list[float | None]]:
    return [[reward.value for reward in one.rewards] for one in rewards]


def codes(reward: GroupReward) -> list[str | None]:
    return [one.error.code if one.error else None for one in reward.rewards]


async def run(
    spec: MethodSpec, engine: FakeEngine, *groups: Group, scope: Scope = NOW
) -> list[GroupReward]:
    """Reward groups with one model over one pool."""
    made = runner(served(spec, reward="main"), main=engine)
    return await made.reward(made.model("m"), groups, scope)


class TestWiring:
    def test_a_missing_role_names_the_line_to_add(self) -> None:
        with pytest.raises(StartRefused, match=r'roles.reward = "POOL"` to \[models.m\]'):
            runner(served(length_reward), main=FakeEngine())

    def test_an_unknown_pool(self) -> None:
        with pytest.raises(StartRefused, match="role `reward` names no pool: `absent`"):
            runner(served(length_reward, reward="absent"), main=FakeEngine())

    def test_a_role_the_method_does_not_have(self) -> None:
        with pytest.raises(StartRefused, match="has no role `rewrad`"):
            runner(served(length_reward, reward="main", rewrad="main"), main=FakeEngine())

    def test_params_that_do_not_fit(self) -> None:
        model = ServedModel("m", length_reward, {"reward": "main"}, {"unknown": 1})
        with pytest.raises(StartRefused, match=r"\[models.m\]: .*unknown"):
            runner(model, main=FakeEngine())

    def test_an_unknown_model_lists_what_there_is(self) -> None:
        made = runner(served(length_reward, "a", reward="x"), x=FakeEngine())
        with pytest.raises(UnknownModel, match="no model is called `b`; served: a"):
            made.model("b")

    @pytest.mark.parametrize(
        ("uses", "words"),
        [
            ({"a": ["a"]}, "cycle: a -> a"),
            ({"a": ["b"], "b": ["c"], "c": ["b"]}, "cycle: .*b -> c -> b"),
            ({"a": ["absent"]}, "model `a` uses `absent`, which is not served"),
        ],
    )
    def test_cycles_and_holes_are_refused(self, uses: dict[str, list[str]], words: str) -> None:
        with pytest.raises(StartRefused, match=words):
            runner(*(composed(name, *others) for name, others in uses.items()))

    def test_a_model_used_twice_is_no_cycle(self) -> None:
        leaf = served(length_reward, "leaf", reward="x")
        top = composed("top", "left", "right")
        runner(leaf, composed("left", "leaf"), composed("right", "leaf"), top, x=FakeEngine())


def composed(name: str, *others: str) -> ServedModel:
    params = {"models": dict.fromkeys(others, 1.0)}
    return ServedModel(name, spec_of(weighted), {}, params)


class TestRounds:
    async def test_all_calls_of_a_tick_are_one_list(self) -> None:
        engine = FakeEngine()
        found = await run(length_reward, engine, group("a", "bb"), group("ccc"), group())
        assert values(found) == [[1.0, 2.0], [3.0], []]
        assert engine.lists == [["a", "bb", "ccc"]]

    async def test_one_list_for_each_pool(self) -> None:
        one, other = FakeEngine(), FakeEngine()
        made = runner(served(both, one="x", other="y"), x=one, y=other)
        found = await made.reward(made.model("m"), [group("1", "2"), group("1", "22")], NOW)
        assert values(found) == [[1.0, 1.0], [1.0, 2.0]]
        assert (one.lists, other.lists) == ([["1", "1"]], [["2", "22"]])

    async def test_two_roles_on_one_pool_are_one_list(self) -> None:
        engine = FakeEngine()
        made = runner(served(both, one="x", other="x"), x=engine)
        await made.reward(made.model("m"), [group("1", "2")], NOW)
        assert engine.lists == [["1", "2"]]

    async def test_the_second_round_is_one_list_again(self) -> None:
        engine = FakeEngine()
        await run(twice, engine, group("a", "bb"), group("ccc"))
        assert engine.lists == [["a", "bb", "ccc"]] * 2

    async def test_a_group_without_responses(self) -> None:
        engine = FakeEngine()
        (found,) = await run(length_reward, engine, group(id="g"))
        assert found == GroupReward(id="g", rewards=[], status="ok", receipts=[])
        assert engine.lists == []

    async def test_no_groups(self) -> None:
        assert await run(length_reward, FakeEngine()) == []

    async def test_order_and_ids_are_kept(self) -> None:
        groups = [group(*["x" * n for n in range(1, 4)], id=f"g{g}") for g in range(3)]
        for one, found in zip(groups, await run(length_reward, FakeEngine(), *groups), strict=True):
            assert found.id == one.id
            assert [r.id for r in found.rewards] == [r.id for r in one.responses]

    async def test_permuted_groups_give_the_same_values(self) -> None:
        groups = [group("a" * n, "b" * 2 * n, id=str(n)) for n in range(1, 7)]
        shuffled = random.Random(0).sample(groups, len(groups))
        one = {g.id: values([g]) for g in await run(twice, FakeEngine(), *groups)}
        other = {g.id: values([g]) for g in await run(twice, FakeEngine(), *shuffled)}
        assert one == other


class TestFailures:
    @pytest.mark.parametrize(
        ("engine", "code", "words"),
        [
            (BrokenEngine(ValueError("boom")), "engine_error", "`main` failed: ValueError: boom"),
            (BrokenEngine(EngineUnavailable("gone")), "engine_unavailable", "gone"),
            (BrokenEngine(asyncio.CancelledError()), "engine_unavailable", "`main` stopped"),
            (BrokenEngine(OSError("\udc80")), "engine_error", "OSError: \\udc80"),
            (ShortEngine(), "engine_error", "`main` answered 1 of 2 calls"),
        ],
    )
    async def test_a_broken_engine_is_an_error_of_each_item(
        self, engine: FakeEngine, code: str, words: str
    ) -> None:
        (found,) = await run(length_reward, engine, group("a", "b"))
        assert found.status == "error"
        assert codes(found) == [code] * 2
        assert found.rewards[0].error is not None
        assert words in found.rewards[0].error.message
        msgspec.json.encode(found)

    async def test_one_pool_that_breaks_leaves_the_other(self) -> None:
        made = runner(
            served(both, one="x", other="y"), x=BrokenEngine(ValueError("boom")), y=FakeEngine()
        )
        (found,) = await made.reward(made.model("m"), [group("1", "22")], NOW)
        assert (values([found]), found.status) == ([[None, 2.0]], "partial")

    async def test_one_bad_response_among_eight(self) -> None:
        bad = Failure(InvalidRequest("no").info)
        engine = FakeEngine(lambda text: bad if text == "ddd" else length(text))
        texts = ["a", "bb", "ccc", "ddd", "e", "f", "g", "h"]
        (found,) = await run(length_reward, engine, group(*texts))
        assert [one.value for one in found.rewards] == [1, 2, 3, None, 1, 1, 1, 1]
        assert codes(found)[3] == "invalid_request"
        assert found.status == "partial"

    async def test_a_role_the_method_never_named_is_its_bug(self) -> None:
        @method("lost")
        @pointwise
        def lost(group: Group, response: Response, params: Nothing) -> Flow[Reward]:
            role = "reward" if response.content == "a" else "elsewhere"
            output = yield from ask(Pool(role, input_of(group, response)))
            return Reward(value=output.values[0][0])

        (found,) = await run(lost, FakeEngine(), group("a", "b"))
        assert codes(found) == [None, "method_failed"]

    async def test_a_method_that_raises_fails_its_group(self) -> None:
        @method("raising", metrics=("depth",))
        def raising(group: Group, params: Nothing) -> Flow[GroupReward]:
            output = yield from ask(Pool("reward", input_of(group, group.responses[0])))
            if output.values[0][0] > 1:
                raise KeyError("boom")
            rewards = [Reward(value=1.0, metrics={"depth": 2.0}) for _ in group.responses]
            return GroupReward(rewards=rewards)

        good, bad = await run(raising, FakeEngine(), group("a"), group("aa", "b"))
        assert values([good]) == [[1.0]]
        assert codes(bad) == ["method_failed"] * 2
        assert [reward.id for reward in bad.rewards] == ["r0", "r1"]
        assert [reward.metrics for reward in bad.rewards] == [{"depth": None}] * 2

    @pytest.mark.parametrize(
        ("broken", "code"),
        [
            (Reward(value=math.nan), "non_finite"),
            (Reward(value=math.inf), "non_finite"),
            (Reward(value=1.0, components={"a": -math.inf}), "non_finite"),
            (Reward(value=1.0, metrics={"depth": math.nan}), "non_finite"),
            (Reward(value=1.0, steps=[StepReward(math.nan)]), "non_finite"),
            (Reward(value="high"), "method_failed"),  # type: ignore[arg-type]
            (Reward(value=10**400), "method_failed"),
            (Reward(value=1.0, components={"a": [1]}), "method_failed"),  # type: ignore[dict-item]
            (Reward(value=1.0, components=None), "method_failed"),  # type: ignore[arg-type]
            (Reward(value=1.0, rationale=1), "method_failed"),  # type: ignore[arg-type]
            (Reward(value=1.0, rationale="\ud800"), "method_failed"),  # no Unicode, so no JSON
            (Reward(value=True), "method_failed"),
            (Reward(value=np.float64(1.0)), "method_failed"),  # JSON has no numpy
            (Reward(value=1.0, steps=[StepReward(np.float64(1.0))]), "method_failed"),
        ],
    )
    async def test_what_is_no_finite_number_never_leaves(self, broken: Reward, code: str) -> None:
        @method("odd", metrics=("depth",))
        @pointwise
        def odd(group: Group, response: Response, params: Nothing) -> Flow[Reward]:
            yield from ask(Pool("reward", input_of(group, response)))
            return broken if response.content == "b" else Reward(value=1.0)

        (found,) = await run(odd, FakeEngine(), group("a", "b", "c"))
        assert codes(found) == [None, code, None]
        assert [reward.value for reward in found.rewards] == [1.0, None, 1.0]
        assert found.rewards[1].id == "r1"
        assert [reward.metrics for reward in found.rewards] == [{"depth": None}] * 3
        msgspec.json.decode(msgspec.json.encode(found), type=GroupReward)

    @pytest.mark.parametrize(
        "broken",
        [
            GroupReward(rewards=[1.0]),  # type: ignore[list-item]
            GroupReward(rewards=[Reward(value=1.0)], preference=[["a"]]),  # type: ignore[list-item]
            GroupReward(rewards=[Reward(value=1.0)], preference=[[0.5, 0.5]]),
            GroupReward(rewards=[Reward(value=1.0)], preference=[]),
            GroupReward(rewards=[Reward(value=1.0)], preference=[[np.float64(1.0)]]),
            GroupReward(rewards=[Reward(value=1.0)], preference=np.ones((1, 1))),  # type: ignore[arg-type]
        ],
    )
    async def test_a_group_that_is_none_leaves_the_others(self, broken: GroupReward) -> None:
        @method("odd", roles=())
        def odd(group: Group, params: Nothing) -> Flow[GroupReward]:
            yield from gather([])
            return broken if group.id == "bad" else GroupReward(rewards=[Reward(value=1.0)])

        made = runner(served(odd))
        bad, good = await made.reward(made.model("m"), [group("a", id="bad"), group("a")], NOW)
        assert (codes(bad), bad.preference, values([good])) == (["method_failed"], None, [[1.0]])
        msgspec.json.decode(msgspec.json.encode(bad), type=GroupReward)

    async def test_a_matrix_without_numbers_has_nulls(self) -> None:
        @method("matrix", roles=())
        def matrix(group: Group, params: Nothing) -> Flow[GroupReward]:
            yield from gather([])
            rewards = [Reward(value=0.5) for _ in group.responses]
            return GroupReward(rewards=rewards, preference=[[0.5, math.nan], [None, math.inf]])

        made = runner(served(matrix))
        (found,) = await made.reward(made.model("m"), [group("a", "b")], NOW)
        assert found.preference == [[0.5, None], [None, None]]

    async def test_nothing_is_preferred_to_what_has_no_reward(self) -> None:
        @method("endless", roles=())
        def endless(group: Group, params: Nothing) -> Flow[GroupReward]:
            yield from gather([])
            rewards = [Reward(value=math.inf), Reward(value=0.0)]
            return GroupReward(rewards=rewards, preference=[[0.5, 1.0], [0.0, 0.5]])

        made = runner(served(endless))
        (found,) = await made.reward(made.model("m"), [group("a", "b")], NOW)
        assert codes(found) == ["non_finite", None]
        assert found.preference == [[None, None], [None, 0.5]]

    @pytest.mark.parametrize("count", [0, 1, 3])
    async def test_too_few_or_too_many_rewards_are_a_bug_of_the_method(self, count: int) -> None:
        @method("miscounts", roles=())
        def miscounts(group: Group, params: Nothing) -> Flow[GroupReward]:
            yield from gather([])
            return GroupReward(rewards=[Reward(value=1.0)] * count)

        made = runner(served(miscounts))
        (found,) = await made.reward(made.model("m"), [group("a", "b")], NOW)
        assert codes(found) == ["method_failed"] * 2
        assert values([found]) == [[None, None]]

    async def test_a_group_method_need_not_echo_ids(self) -> None:
        @method("forgets", roles=())
        def forgets(group: Group, params: Nothing) -> Flow[GroupReward]:
            yield from gather([])
            return GroupReward(rewards=[Reward(value=1.0, id="x") for _ in group.responses])

        made = runner(served(forgets))
        (found,) = await made.reward(made.model("m"), [group("a", "b")], NOW)
        assert [reward.id for reward in found.rewards] == ["r0", "r1"]


class TestDeadline:
    async def test_what_hangs_fails_and_what_finished_stays(self) -> None:
        hanging = HangingEngine()
        made = runner(served(both, one="x", other="y"), x=FakeEngine(), y=hanging)
        scope = Scope(deadline=time.monotonic() + 0.05)
        async with asyncio.timeout(PATIENCE_S):
            found = await made.reward(made.model("m"), [group("1", "2"), group("1")], scope)
        assert values(found) == [[1.0, None], [1.0]]
        assert codes(found[0]) == [None, "deadline_exceeded"]
        assert found[0].rewards[1].error is not None
        assert found[0].rewards[1].error.retryable
        await asyncio.sleep(0)
        assert hanging.cancelled == 1

    async def test_a_second_round_past_the_deadline_fails_too(self) -> None:
        @method("tries")
        @pointwise
        def tries(group: Group, response: Response, params: Nothing) -> Flow[Reward]:
            yield from attempt(ask(Pool("reward", input_of(group, response))))
            output = yield from ask(Pool("reward", input_of(group, response)))
            return Reward(value=output.values[0][0])

        scope = Scope(deadline=time.monotonic() + 0.05)
        async with asyncio.timeout(PATIENCE_S):
            (found,) = await run(tries, HangingEngine(), group("a"), scope=scope)
        assert codes(found) == ["deadline_exceeded"]

    async def test_a_deadline_long_past(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            (found,) = await run(
                length_reward, HangingEngine(), group("a"), scope=Scope(deadline=0.0)
            )
        assert codes(found) == ["deadline_exceeded"]

    async def test_in_time_nothing_happens(self) -> None:
        scope = Scope(deadline=time.monotonic() + 600)
        assert values(await run(twice, FakeEngine(), group("a"), scope=scope)) == [[2.0]]


class TestCancellation:
    async def test_flows_are_closed_and_engines_cancelled(self) -> None:
        closed: list[str] = []

        @method("closing")
        @pointwise
        def closing(group: Group, response: Response, params: Nothing) -> Flow[Reward]:
            try:
                yield from gather([ask(Pool("reward", input_of(group, response)))])
            finally:
                closed.append(response.content or "")
            return Reward(value=1.0)

        engine = HangingEngine()
        task = asyncio.create_task(run(closing, engine, group("a", "b"), group("c")))
        async with asyncio.timeout(PATIENCE_S):
            while not engine.lists:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert sorted(closed) == ["a", "b", "c"]
            while not engine.cancelled:
                await asyncio.sleep(0)

    async def test_it_reaches_the_engines_of_composed_models(self) -> None:
        engine = HangingEngine()
        made = runner(
            served(length_reward, "leaf", reward="x"),
            composed("middle", "leaf"),
            composed("top", "middle"),
            x=engine,
        )
        task = asyncio.create_task(made.reward(made.model("top"), [group("a")], NOW))
        async with asyncio.timeout(PATIENCE_S):
            while not engine.lists:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while not engine.cancelled:
                await asyncio.sleep(0)


class TestReceipts:
    async def test_one_a_role_summed(self) -> None:
        (found,) = await run(twice, FakeEngine(), group("a", "bbb"))
        (receipt,) = found.receipts
        assert (receipt.role, receipt.pool, receipt.model) == ("reward", "main", "m")
        assert receipt.tokens_total == 2 * (1 + 3)
        assert receipt.tokens_computed == 4
        assert receipt.queue_ms == 3.0
        assert receipt.compute_ms == 2.0

    async def test_each_group_has_its_own(self) -> None:
        found = await run(length_reward, FakeEngine(), group("a", "bbb"), group("cc"))
        assert [one.receipts[0].tokens_total for one in found] == [4, 2]

    async def test_two_roles_have_two(self) -> None:
        made = runner(served(both, one="x", other="y"), x=FakeEngine(), y=FakeEngine())
        (found,) = await made.reward(made.model("m"), [group("1", "22", "1")], NOW)
        assert [(r.role, r.pool, r.tokens_total) for r in found.receipts] == [
            ("one", "x", 2),
            ("other", "y", 2),
        ]

    async def test_failures_cost_nothing_known(self) -> None:
        engine = BrokenEngine(ValueError("boom"))
        (found,) = await run(length_reward, engine, group("a"))
        assert found.receipts == []

    async def test_truncation_is_carried(self) -> None:
        cut = Usage(truncated=True, tokens_dropped=7, bos_count=1)
        engine = FakeEngine(
            lambda text: PoolOutput(values=[[1.0]], usage=cut) if text == "a" else length(text)
        )
        (found,) = await run(length_reward, engine, group("a", "b", "a"))
        (receipt,) = found.receipts
        assert (receipt.truncated, receipt.tokens_dropped, receipt.bos_count) == (True, 14, 1)


class TestComposition:
    def made(self, x: FakeEngine, y: FakeEngine) -> Runner:
        return runner(
            served(length_reward, "long", reward="x"),
            served(twice, "twice", reward="y"),
            ServedModel("mix", spec_of(weighted), {}, {"models": {"long": 1.0, "twice": 10.0}}),
            ServedModel("top", spec_of(weighted), {}, {"models": {"mix": 1.0, "long": 100.0}}),
            x=x,
            y=y,
        )

    async def test_values_and_components(self) -> None:
        made = self.made(FakeEngine(), FakeEngine())
        (found,) = await made.reward(made.model("mix"), [group("a", "bb")], NOW)
        assert values([found]) == [[1 + 20, 2 + 40]]
        assert found.rewards[1].components == {"long": 2.0, "twice": 4.0}

    async def test_all_groups_go_to_a_sub_model_together(self) -> None:
        x, y = FakeEngine(), FakeEngine()
        made = self.made(x, y)
        await made.reward(made.model("mix"), [group("a", "bb"), group("ccc")], NOW)
        assert x.lists == [["a", "bb", "ccc"]]
        assert y.lists == [["a", "bb", "ccc"]] * 2

    async def test_receipts_of_all_models_below(self) -> None:
        made = self.made(FakeEngine(), FakeEngine())
        one, other = await made.reward(made.model("top"), [group("a"), group("bb", "c")], NOW)
        assert {r.pool: r.tokens_total for r in one.receipts} == {"x": 2, "y": 2}
        assert {r.pool: r.tokens_total for r in other.receipts} == {"x": 6, "y": 6}

    async def test_a_sub_model_that_fails_says_which(self) -> None:
        made = self.made(FakeEngine(), BrokenEngine(ValueError("boom")))
        (found,) = await made.reward(made.model("mix"), [group("a")], NOW)
        (reward,) = found.rewards
        assert reward.error is not None
        assert reward.error.code == "engine_error"
        assert reward.error.message.startswith("`twice`: ")
        assert reward.components == {"long": 1.0, "twice": None}

    async def test_a_hanging_sub_model_ends_at_the_deadline(self) -> None:
        made = self.made(FakeEngine(), HangingEngine())
        scope = Scope(deadline=time.monotonic() + 0.05)
        async with asyncio.timeout(PATIENCE_S):
            (found,) = await made.reward(made.model("top"), [group("a")], scope)
        assert codes(found) == ["deadline_exceeded"]
        assert found.rewards[0].components["long"] == 1.0

    async def test_an_undeclared_sub_model_that_is_not_served(self) -> None:
        @method("sly", roles=())
        def sly(group: Group, params: Nothing) -> Flow[GroupReward]:
            output = yield from ask(Score("absent", group))
            return output.reward

        made = runner(served(sly))
        (found,) = await made.reward(made.model("m"), [group("a")], NOW)
        assert codes(found) == ["unknown_model"]


async def test_params_of_the_request_override_the_configured() -> None:
    class Factor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        by: float = 1.0

    def scaled_of(group: Group, response: Response, params: Factor) -> Flow[Reward]:
        output = yield from ask(Pool("reward", input_of(group, response)))
        return Reward(value=params.by * output.values[0][0])

    scaled_of.__annotations__["params"] = Factor
    scaled = method("scaled")(pointwise(scaled_of))
    made = runner(ServedModel("m", scaled, {"reward": "main"}, {"by": 2.0}), main=FakeEngine())
    model = made.model("m")
    assert values(await made.reward(model, [group("aaa")], NOW)) == [[6.0]]
    assert values(await made.reward(model, [group("aaa")], NOW, {"by": 5})) == [[15.0]]
    with pytest.raises(InvalidRequest, match="by"):
        await made.reward(model, [group("aaa")], NOW, {"by": "much"})


async def test_a_caller_cannot_compose_other_models_than_the_configured() -> None:
    made = runner(
        served(length_reward, "a", reward="x"),
        served(length_reward, "b", reward="x"),
        composed("mix", "a"),
        x=FakeEngine(),
    )
    with pytest.raises(InvalidRequest, match="cannot add the model `b`"):
        await made.reward(made.model("mix"), [group("a")], NOW, {"models": {"b": 1.0}})


async def test_outputs_of_any_kind_reach_the_method() -> None:
    @method("sampled")
    @pointwise
    def sampled(group: Group, response: Response, params: Nothing) -> Flow[Reward]:
        output = yield from ask(Generate("reward", Input(Prompt(text="?")), 0, 1))
        return Reward(value=float(len(output.token_ids)), rationale=output.text)

    said = GenerateOutput(text="hm", token_ids=[1, 2], logprobs=[0, 0], finish_reason="stop")
    (found,) = await run(sampled, FakeEngine(lambda text: said), group("a"))
    assert (found.rewards[0].value, found.rewards[0].rationale) == (2.0, "hm")
