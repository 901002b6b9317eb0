"""The register of reward methods: the file is the registration.

    @reward_method("scalar", family="scalar", roles=("reward",), gives=("value",))
    @pointwise
    def scalar(group: Group, response: Response, params: Params) -> Flow[Reward]: ...

A method is a function `(group, params) -> Flow[GroupReward]`; `@pointwise` lifts one that scores a
single response. `params` is a frozen Struct declared in the same file, whose JSON schema the
catalogue serves.
"""

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Literal, get_type_hints

import msgspec

from rewardd.core.flow import Flow
from rewardd.errors import InvalidRequest, MissingField, StartRefused
from rewardd_types import Group, GroupReward, Reward

Gives = Literal["value", "preference", "steps", "verdicts"]
Method = Callable[[Group, Any], Flow[GroupReward]]


class MethodSpec(msgspec.Struct, frozen=True):
    """A registered method: `roles` it asks, group fields it `reads`, what it `gives`.

    `uses(params)` names the served models a composition asks with `Score`. `metrics` are the keys
    every reward of the method carries, errors included.
    """

    name: str
    family: str
    function: Method
    params: type[msgspec.Struct]
    roles: tuple[str, ...]
    reads: tuple[str, ...]
    gives: tuple[Gives, ...]
    paper: str | None
    summary: str
    revision: str
    uses: Callable[[Any], Iterable[str]]
    metrics: tuple[str, ...] = ()

    def flow(self, group: Group, params: msgspec.Struct) -> Flow[GroupReward]:
        """The flow that rewards `group`; raises MissingField when a field it reads is absent."""
        for field in self.reads:
            if getattr(group, field) is None:
                raise MissingField(f"method `{self.name}` reads `{field}`", path=f"$.{field}")
        reward = yield from self.function(group, params)
        return msgspec.structs.replace(reward, rewards=[self.filled(r) for r in reward.rewards])

    def filled(self, reward: Reward) -> Reward:
        """The reward with every metric of the method; null where it was not reached."""
        missing = {key: None for key in self.metrics if key not in reward.metrics}
        if not missing:
            return reward
        return msgspec.structs.replace(reward, metrics={**reward.metrics, **missing})

    def parse(self, configured: dict[str, Any], override: dict[str, Any] | None) -> msgspec.Struct:
        """Params of one request: what the configuration says, overridden by the caller.

        A caller cannot make a composition ask other models: cycles are looked for at start only.
        """
        params = self._convert({**configured, **(override or {})})
        if override:
            allowed = set(self.uses(self._convert(configured)))
            added = [name for name in self.uses(params) if name not in allowed]
            if added:
                message = f"a request cannot add the model `{added[0]}`"
                raise InvalidRequest(message, path="$.params")
        return params

    def _convert(self, table: dict[str, Any]) -> msgspec.Struct:
        try:
            return msgspec.convert(table, self.params)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"params of `{self.name}`: {error}", path="$.params") from error


def _uses_none(params: Any) -> Iterable[str]:
    return ()


_MARK = "__reward_method__"


def reward_method(
    name: str,
    *,
    family: str,
    gives: tuple[Gives, ...] = ("value",),
    roles: tuple[str, ...] = (),
    reads: tuple[str, ...] = (),
    paper: str | None = None,
    uses: Callable[[Any], Iterable[str]] = _uses_none,
    metrics: tuple[str, ...] = (),
) -> Callable[[Method], Method]:
    """Mark a function as the method of its file; `discover` collects the marks."""

    def mark(function: Method) -> Method:
        module = inspect.getmodule(function)
        spec = MethodSpec(
            name=name,
            family=family,
            function=function,
            params=_params_type(function),
            roles=roles,
            reads=reads,
            gives=gives,
            paper=paper,
            summary=(inspect.getdoc(function) or inspect.getdoc(module) or "").split("\n")[0],
            revision=_revision(module),
            uses=uses,
            metrics=metrics,
        )
        setattr(function, _MARK, spec)
        return function

    return mark


def _params_type(function: Method) -> type[msgspec.Struct]:
    hint = get_type_hints(inspect.unwrap(function)).get("params")
    if not (isinstance(hint, type) and issubclass(hint, msgspec.Struct)):
        raise StartRefused(f"{function.__qualname__}: annotate `params` with a msgspec Struct")
    if not hint.__struct_config__.forbid_unknown_fields:
        raise StartRefused(f"{hint.__qualname__}: set forbid_unknown_fields=True")
    return hint


def _revision(module: ModuleType | None) -> str:
    source = inspect.getsource(module) if module else ""
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def methods_in(module: ModuleType) -> list[MethodSpec]:
    """The methods a module registers."""
    found = [getattr(item, _MARK, None) for item in vars(module).values()]
    return [spec for spec in found if isinstance(spec, MethodSpec)]


def discover(package: ModuleType) -> dict[str, MethodSpec]:
    """Import every module below `package`; one method a module, no name twice."""
    specs: dict[str, MethodSpec] = {}
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if info.ispkg or info.name.rpartition(".")[2].startswith("_"):
            continue
        found = methods_in(importlib.import_module(info.name))
        if len(found) != 1:
            raise StartRefused(f"{info.name} registers {len(found)} methods; one file, one method")
        register(specs, found[0])
    return specs


def register(specs: dict[str, MethodSpec], spec: MethodSpec) -> None:
    """Add `spec`; refuse a name that is taken."""
    if spec.name in specs:
        raise StartRefused(f"two reward methods are called `{spec.name}`")
    specs[spec.name] = spec
