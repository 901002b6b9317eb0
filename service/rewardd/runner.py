"""Drives flows: the one place where effects happen.

A request becomes one flow over its groups. All calls that become ready in one tick go to their
pool as one list; no task is made per item. What comes back advances the flow, until every group
has its rewards.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from rewardd.core.calls import Call, Engine, Failure, Output, Scope, Score, ScoreOutput
from rewardd.core.flow import Failed, Flow, Machine, Path, T, attempt, gather
from rewardd.core.pointwise import failed_reward
from rewardd.core.registry import MethodSpec
from rewardd.errors import (
    DeadlineExceeded,
    EngineError,
    EngineUnavailable,
    MethodFailed,
    NonFinite,
    RequestError,
    RewarddError,
    StartRefused,
    UnknownModel,
)
from rewardd.ledger import Ledger
from rewardd_types import Group, GroupReward, Response, Reward

Ready: TypeAlias = list[tuple[Path, Call[Any]]]
Outcomes: TypeAlias = list[Output | Failure]
Matrix: TypeAlias = list[list[float | None]] | None


GRACE_S = 0.05


class ServedModel(msgspec.Struct, frozen=True):
    """A served reward: a method, its roles bound to pools, and its configured parameters."""

    name: str
    spec: MethodSpec
    roles: Mapping[str, str]
    params: dict[str, Any]


class Runner:
    """Rewards groups with served models; refuses to start on a wiring that cannot work."""

    def __init__(self, models: Mapping[str, ServedModel], pools: Mapping[str, Engine]) -> None:
        self.models = models
        self.pools = pools
        for model in models.values():
            _check_roles(model, pools)
            _check_cycles(model.name, models, ())

    def model(self, name: str) -> ServedModel:
        """The served model of that name; UnknownModel lists what there is."""
        if name not in self.models:
            served = ", ".join(sorted(self.models))
            raise UnknownModel(f"no model is called `{name}`; served: {served}", path="$.model")
        return self.models[name]

    async def reward(
        self,
        model: ServedModel,
        groups: Sequence[Group],
        scope: Scope,
        override: dict[str, Any] | None = None,
    ) -> list[GroupReward]:
        """One GroupReward a group, in order. Failures of items are errors of items."""
        params = model.spec.parse(model.params, override)
        ledger = Ledger(len(groups))
        flow = gather([attempt(model.spec.flow(group, params)) for group in groups])
        outcomes = await drive(
            flow, lambda ready: self._dispatch(model, ready, scope, ledger), scope
        )
        return [
            _complete(model.spec, group, outcome, ledger.receipts(index))
            for index, (group, outcome) in enumerate(zip(groups, outcomes, strict=True))
        ]

    def _dispatch(
        self, model: ServedModel, ready: Ready, scope: Scope, ledger: Ledger
    ) -> list[tuple[list[Path], Awaitable[Outcomes]]]:
        """One awaitable a pool (or a sub-model), with the paths its outcomes belong to."""
        batches: dict[tuple[bool, str], Ready] = {}
        for path, call in ready:
            is_score = isinstance(call, Score)
            target = call.role if is_score else model.roles.get(call.role, "")
            batches.setdefault((is_score, target), []).append((path, call))
        return [
            ([path for path, _ in batch], self._run(target, is_score, batch, scope, ledger))
            for (is_score, target), batch in batches.items()
        ]

    async def _run(
        self, target: str, is_score: bool, batch: Ready, scope: Scope, ledger: Ledger
    ) -> Outcomes:
        calls = [call for _, call in batch]
        run = self._score(target, calls, scope) if is_score else self._ask(target, calls, scope)
        outcomes = await _settled(run, len(calls), target)
        card = None if is_score or target not in self.pools else self.pools[target].card
        for (path, call), outcome in zip(batch, outcomes, strict=True):
            ledger.enter(path[1], call.role, target, card, outcome)
        return outcomes

    async def _ask(self, pool: str, calls: list[Call[Any]], scope: Scope) -> Outcomes:
        if pool not in self.pools:
            raise MethodFailed(f"the method asks the role `{calls[0].role}`, which it never named")
        return await self.pools[pool].run(calls, scope)

    async def _score(self, name: str, calls: list[Call[Any]], scope: Scope) -> Outcomes:
        groups = [call.group for call in calls if isinstance(call, Score)]
        rewards = await self.reward(self.model(name), groups, scope)
        return [ScoreOutput(reward=reward) for reward in rewards]


Dispatch: TypeAlias = Callable[[Ready], list[tuple[list[Path], Awaitable[Outcomes]]]]


async def drive(flow: Flow[T], dispatch: Dispatch, scope: Scope) -> T:
    """Advance `flow` to its result. Past the deadline, what is still asked fails as such."""
    machine = Machine(flow)
    running: dict[asyncio.Task[Outcomes], list[Path]] = {}
    try:
        while not machine.done:
            for paths, work in dispatch(machine.take()):
                running[asyncio.ensure_future(work)] = paths
            for paths, outcomes in await _next(running, scope):
                for path, outcome in zip(paths, outcomes, strict=True):
                    machine.settle(path, outcome)
        return machine.result()
    finally:
        for task in running:
            task.cancel()
        machine.close()


async def _next(
    running: dict[asyncio.Task[Outcomes], list[Path]], scope: Scope
) -> list[tuple[list[Path], Outcomes]]:
    """What finished next; when the deadline came first, a failure for everything running.

    Engines know the deadline, and a moment more lets them hand over what they have by then.
    """
    left = None
    if scope.deadline is not None:
        left = max(0.0, scope.deadline - time.monotonic()) + GRACE_S
    done, late = await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
    if done:
        return [(running.pop(task), task.result()) for task in done]
    expired = Failure(DeadlineExceeded("the deadline passed before the model answered").info)
    for task in late:
        task.cancel()
    return [(paths, [expired] * len(paths)) for paths in (running.pop(task) for task in late)]


async def _settled(run: Awaitable[Outcomes], count: int, target: str) -> Outcomes:
    """The outcomes of a run; an engine that raises or miscounts fails its own calls only."""
    try:
        outcomes = await run
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        # Nobody cancelled us: what the engine waited for was taken from it.
        gone = EngineUnavailable(f"`{target}` stopped before it answered")
        return [Failure(gone.info)] * count
    except RewarddError as error:
        return [Failure(error.info)] * count
    except Exception as error:
        what = f"`{target}` failed: {type(error).__name__}: {error}"
        return [Failure(EngineError(what).info)] * count
    if len(outcomes) != count:
        what = f"`{target}` answered {len(outcomes)} of {count} calls. This is a bug."
        return [Failure(EngineError(what).info)] * count
    return outcomes


def _complete(
    spec: MethodSpec, group: Group, outcome: GroupReward | Failed, receipts: list[Any]
) -> GroupReward:
    """Give the group its ids, status and receipts."""
    checked = _checked(spec, group, outcome)
    rewards = [spec.filled(reward) for reward in checked.rewards]
    good = sum(reward.status == "ok" for reward in rewards)
    status = "ok" if good == len(rewards) else "partial" if good else "error"
    return msgspec.structs.replace(
        checked, id=group.id, status=status, rewards=rewards, receipts=receipts
    )


def _checked(spec: MethodSpec, group: Group, outcome: GroupReward | Failed) -> GroupReward:
    """What the method gave the group; anything else than rewards is an error of each response."""
    try:
        if isinstance(outcome, Failed):
            raise outcome.error
        if len(outcome.rewards) != len(group.responses):
            what = f"`{spec.name}` gave {len(outcome.rewards)} of {len(group.responses)} rewards"
            raise MethodFailed(what)
        rewards = list(map(_finite, group.responses, outcome.rewards))
        return GroupReward(rewards, preference=_known(outcome.preference, rewards))
    except Exception as error:
        return GroupReward([failed_reward(response, error) for response in group.responses])


def _finite(response: Response, given: Reward) -> Reward:
    """The response's reward, or why it has none: nothing has checked its types before.

    Through msgpack, which keeps NaN, and refuses a text that is no Unicode as JSON will.
    """
    try:
        reward = msgspec.msgpack.decode(msgspec.msgpack.encode(given), type=Reward)
    except Exception as wrong:
        return failed_reward(response, MethodFailed(f"the method gave no reward: {wrong}"))
    numbers = [reward.value, *reward.components.values(), *reward.metrics.values()]
    numbers += [step.value for step in reward.steps or []]
    if all(number is None or math.isfinite(number) for number in numbers):
        return msgspec.structs.replace(reward, id=response.id)
    error = NonFinite("the method computed a number that is not finite")
    return msgspec.structs.replace(failed_reward(response, error), seen=reward.seen)


def _known(given: Matrix, rewards: Sequence[Reward]) -> Matrix:
    """The matrix with null where a number is not finite or either response has no reward."""
    matrix: Matrix = msgspec.convert(given, Matrix)
    if matrix is None:
        return None
    if [len(row) for row in matrix] != [len(rewards)] * len(rewards):
        raise MethodFailed("the preference matrix needs a row and a column for each response")
    for i, j in itertools.product(range(len(rewards)), repeat=2):
        p, both = matrix[i][j], (rewards[i].status, rewards[j].status)
        if p is None or not math.isfinite(p) or both != ("ok", "ok"):
            matrix[i][j] = None
    return matrix


def _check_roles(model: ServedModel, pools: Mapping[str, Engine]) -> None:
    missing = [role for role in model.spec.roles if role not in model.roles]
    if missing:
        raise StartRefused(
            f"model `{model.name}`: method `{model.spec.name}` needs the role `{missing[0]}`;"
            f' add `roles.{missing[0]} = "POOL"` to [models.{model.name}]'
        )
    for role, pool in model.roles.items():
        if role not in model.spec.roles:
            raise StartRefused(
                f"model `{model.name}`: method `{model.spec.name}` has no role `{role}`"
            )
        if pool not in pools:
            raise StartRefused(f"model `{model.name}`: role `{role}` names no pool: `{pool}`")


def _check_cycles(name: str, models: Mapping[str, ServedModel], above: tuple[str, ...]) -> None:
    if name in above:
        raise StartRefused("models form a cycle: " + " -> ".join([*above, name]))
    if name not in models:
        raise StartRefused(f"model `{above[-1]}` uses `{name}`, which is not served")
    model = models[name]
    try:
        params = model.spec.parse(model.params, None)
    except RequestError as error:
        raise StartRefused(f"[models.{name}]: {error.message}") from error
    for used in model.spec.uses(params):
        _check_cycles(used, models, (*above, name))
