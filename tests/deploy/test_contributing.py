"""The worked example of CONTRIBUTING.md is a method that works, and its test passes."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rewardd.methods
from rewardd.core.calls import Call, Output
from rewardd.core.flow import play
from rewardd.core.registry import discover, methods_in, register
from rewardd_types import Group, Response
from tests.deploy.modules import load

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
METHOD, TEST = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
NAME = "rewardd.methods.scalar.reference_margin"


@pytest.fixture
def method(tmp_path: Path) -> Iterator[ModuleType]:
    """The example, where its test imports it from."""
    path = tmp_path / "reference_margin.py"
    path.write_text(METHOD)
    assert importlib.util.find_spec(NAME) is None, "the example has become a real method"
    try:
        yield load(NAME, path)
    finally:
        sys.modules.pop(NAME)


def test_the_page_says_where_the_file_lies() -> None:
    assert f"service/{NAME.replace('.', '/')}.py" in PAGE


def test_the_example_is_short() -> None:
    assert len([line for line in METHOD.splitlines() if line.strip()]) <= 32


def test_the_example_registers_as_one_method_beside_ours(method: ModuleType) -> None:
    (spec,) = methods_in(method)
    specs = discover(rewardd.methods)
    register(specs, spec)
    assert (spec.family, spec.roles, spec.reads) == ("scalar", ("reward",), ("reference",))
    assert spec.summary == "The reward of a response above that of the group's reference."
    assert len(spec.revision) == 12


def test_the_test_of_the_example_passes(method: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "test_reference_margin.py"
    path.write_text(TEST)
    test = load("test_reference_margin_example", path)
    sys.modules.pop(test.__name__)
    ran = [call() for name, call in vars(test).items() if name.startswith("test_")]
    assert ran == [None]


def test_a_failure_of_the_example_is_an_error_and_no_number(method: ModuleType) -> None:
    (spec,) = methods_in(method)
    group = Group([Response(content="4")], prompt="2 + 2", reference=["four", "4"])

    def answer(call: Call[Any]) -> Output:
        raise AssertionError(call)

    (reward,) = play(spec.flow(group, spec.parse({}, None)), answer).rewards
    assert (reward.value, reward.status) == (None, "error")
    assert reward.error is not None
    assert reward.error.path == "$.reference"
