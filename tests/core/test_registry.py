"""The register: one file, one method, no name twice, parameters that are checked."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, Struct

from rewardd import methods
from rewardd.core.flow import Flow, play
from rewardd.core.registry import MethodSpec, discover, methods_in, register, reward_method
from rewardd.errors import InvalidRequest, MissingField, StartRefused
from rewardd_types import Group, GroupReward, Response, Reward
from tests.methods.canned import never

METHOD = '''
from msgspec import Struct
from rewardd.core.registry import reward_method
from rewardd_types import GroupReward


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    scale: float = 1.0


@reward_method("{name}", family="test")
def {function}(group, params: Params):
    """Says nothing."""
    return GroupReward(rewards=[])
    yield
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """An empty package `found` that a test fills with files."""
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("found")
    for name in [name for name in sys.modules if name.partition(".")[0] == "found"]:
        del sys.modules[name]


def write(package: types.ModuleType, file: str, text: str) -> None:
    (Path(package.__path__[0]) / file).write_text(text)


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    scale: Annotated[float, Meta(ge=0.0, le=10.0)] = 1.0
    models: list[str] = []


@reward_method(
    "sample",
    family="test",
    reads=("reference",),
    metrics=("seen", "lost"),
    uses=lambda params: params.models,
)
def sample(group: Group, params: Params) -> Flow[GroupReward]:
    """The first line.

    And more.
    """
    return GroupReward(rewards=[Reward(value=params.scale, metrics={"seen": 1.0})])
    yield


SAMPLE: MethodSpec = sample.__reward_method__  # type: ignore[attr-defined]


def test_discover_finds_the_method_of_each_file(package: types.ModuleType) -> None:
    write(package, "one.py", METHOD.format(name="one", function="one"))
    write(package, "two.py", METHOD.format(name="two", function="two"))
    write(package, "_private.py", "")
    assert list(discover(package)) == ["one", "two"]


def test_a_name_taken_twice_stops_the_start(package: types.ModuleType) -> None:
    write(package, "one.py", METHOD.format(name="same", function="one"))
    write(package, "two.py", METHOD.format(name="same", function="two"))
    with pytest.raises(StartRefused, match="two reward methods are called `same`"):
        discover(package)


def test_a_file_without_a_method_stops_the_start(package: types.ModuleType) -> None:
    write(package, "empty.py", "x = 1\n")
    with pytest.raises(StartRefused, match=r"found\.empty registers 0 methods"):
        discover(package)


def test_a_file_with_two_methods_stops_the_start(package: types.ModuleType) -> None:
    both = METHOD.format(name="a", function="a") + METHOD.format(name="b", function="b")
    write(package, "both.py", both)
    with pytest.raises(StartRefused, match="registers 2 methods"):
        discover(package)


def test_our_own_methods_are_found() -> None:
    assert set(discover(methods)) >= {
        "scalar",
        "bradley_terry",
        "prm",
        "rubric",
        "self_certainty",
        "math_answer",
        "weighted",
    }


def test_a_method_describes_itself() -> None:
    assert (SAMPLE.name, SAMPLE.summary) == ("sample", "The first line.")
    assert len(SAMPLE.revision) == 12
    assert methods_in(sys.modules[__name__]) == [SAMPLE]


def test_register_refuses_a_taken_name() -> None:
    specs: dict[str, MethodSpec] = {}
    register(specs, SAMPLE)
    with pytest.raises(StartRefused):
        register(specs, SAMPLE)


def test_params_must_be_annotated_with_a_strict_struct() -> None:
    def bare(group: Group, params: Any) -> Flow[GroupReward]:
        return GroupReward(rewards=[])
        yield

    with pytest.raises(StartRefused, match="annotate `params`"):
        reward_method("bare", family="test")(bare)


class Loose(Struct):
    scale: float = 1.0


def loose(group: Group, params: Loose) -> Flow[GroupReward]:
    return GroupReward(rewards=[])
    yield


def test_params_that_let_unknown_fields_pass_are_refused() -> None:
    with pytest.raises(StartRefused, match="forbid_unknown_fields"):
        reward_method("loose", family="test")(loose)


def test_the_schema_of_the_params_says_their_bounds() -> None:
    schema = msgspec.json.schema(SAMPLE.params)["$defs"]["Params"]
    assert schema["properties"]["scale"] == {
        "type": "number",
        "minimum": 0.0,
        "maximum": 10.0,
        "default": 1.0,
    }
    assert schema["additionalProperties"] is False


def test_a_caller_overrides_what_is_configured() -> None:
    assert SAMPLE.parse({"scale": 2.0}, None) == Params(scale=2.0)
    assert SAMPLE.parse({"scale": 2.0}, {"scale": 3.0}) == Params(scale=3.0)


@pytest.mark.parametrize("override", [{"scale": 11.0}, {"scale": "x"}, {"unknown": 1}])
def test_a_wrong_override_is_the_callers_error(override: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="params of `sample`") as caught:
        SAMPLE.parse({}, override)
    assert caught.value.path == "$.params"


def test_a_caller_cannot_add_models_to_a_composition() -> None:
    configured = {"models": ["a", "b"]}
    assert SAMPLE.parse(configured, {"models": ["b"]}) == Params(models=["b"])
    with pytest.raises(InvalidRequest, match="cannot add the model `c`"):
        SAMPLE.parse(configured, {"models": ["a", "c"]})


def test_a_group_without_a_field_that_is_read_is_refused() -> None:
    group = Group(prompt="q", responses=[Response(content="a")])
    with pytest.raises(MissingField, match="reads `reference`") as caught:
        play(SAMPLE.flow(group, Params()), never)
    assert caught.value.path == "$.reference"


def test_every_reward_carries_every_metric_of_its_method() -> None:
    group = Group(prompt="q", responses=[Response(content="a")], reference="r")
    (reward,) = play(SAMPLE.flow(group, Params()), never).rewards
    assert reward.metrics == {"seen": 1.0, "lost": None}
