"""docs/examples/my_rewards.py is served as the page says; pages' configurations are accepted."""

import asyncio
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from rewardd.assembly import Service, open_service
from rewardd.config import Config
from rewardd.core.calls import Scope
from rewardd.errors import UnknownModel
from rewardd_types import Group, GroupReward, Response

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples/my_rewards.py"
TABLES = [
    pytest.param(block, id=f"{page.name}-{index}")
    for page in sorted(DOCS.glob("*.md"))
    for index, block in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL))
]


def rewarded(
    config: Config, model: str, group: Group, params: dict[str, Any] | None = None
) -> GroupReward:
    """The group's rewards by a served model, and what was served is closed again."""

    async def ask() -> GroupReward:
        service: Service = await open_service(config)
        try:
            runner = service.runner
            (reward,) = await runner.reward(runner.model(model), [group], Scope(), params)
            return reward
        finally:
            await service.aclose()

    return asyncio.run(ask())


def group(*contents: str, **fields: Any) -> Group:
    return Group([Response(content=content) for content in contents], prompt="2 + 2", **fields)


def served(tmp_path: Path, source: str | None = None, **tables: Any) -> Config:
    """A configuration that serves the example, or a file with `source`."""
    path = EXAMPLE
    if source is not None:
        path = tmp_path / "my_rewards.py"
        path.write_text(source)
    return Config(methods=[path], data_dir=tmp_path, **tables)


def test_the_plain_functions_of_the_example(tmp_path: Path) -> None:
    config = served(tmp_path)
    found = rewarded(config, "exact", group("It is 4", "It is 5", "four", reference="4"))
    assert [reward.value for reward in found.rewards] == [1.0, 0.0, 0.0]
    long = group("one two three four", "one", extra={"max_words": 2})
    assert [r.value for r in rewarded(config, "brief", long).rewards] == [0.0, 1.0]


def test_nothing_to_score_is_unscorable_and_no_zero(tmp_path: Path) -> None:
    (reward,) = rewarded(served(tmp_path), "exact", group("It is 4")).rewards
    assert (reward.status, reward.value) == ("unscorable", None)


def test_the_method_of_the_example_sees_the_group(tmp_path: Path) -> None:
    answers = group("so\n4", "4", "5", "")
    found = rewarded(served(tmp_path), "agreement", answers)
    assert [reward.value for reward in found.rewards] == [0.5, 0.5, 0.25, 0.0]
    assert found.rewards[0].metrics == {"votes": 2.0}
    strict = rewarded(served(tmp_path), "agreement", answers, {"min_chars": 2})
    assert {reward.value for reward in strict.rewards} == {0.0}


def test_the_first_function_of_the_page(tmp_path: Path) -> None:
    page = (DOCS / "own-rewards.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    found = rewarded(served(tmp_path, source), "reward", group("It is 4", "5", reference="4"))
    assert [reward.value for reward in found.rewards] == [1.0, 0.0]


def test_a_time_limit_set_in_the_configuration_holds(tmp_path: Path) -> None:
    source = "import time\n\ndef reward(prompt, response):\n    time.sleep(30)\n"
    models = {"slow": {"method": "reward", "params": {"timeout_s": 0.2}}}
    (reward,) = rewarded(served(tmp_path, source, models=models), "slow", group("x")).rewards
    assert reward.error is not None
    assert reward.error.code == "execution_timeout"


def test_a_pool_of_its_own_serves_a_file_too(tmp_path: Path) -> None:
    pool = {"engine": "sandbox", "methods_file": EXAMPLE, "processes": 2}
    config = Config.model_validate({"pools": {"mine": pool}, "data_dir": tmp_path})
    found = rewarded(config, "exact", group("4", reference="4"))
    assert [reward.value for reward in found.rewards] == [1.0]
    assert found.receipts[0].pool == "mine"


def test_a_method_with_roles_waits_for_its_binding(tmp_path: Path) -> None:
    """As the page says: it is served where the configuration binds its roles, and nowhere else."""
    source = EXAMPLE.read_text().replace(
        'family="user", metrics', 'family="user", roles=("reward",), metrics'
    )
    with pytest.raises(UnknownModel):
        rewarded(served(tmp_path, source), "agreement", group("4"))
    tables = {
        "pools": {"other": {"engine": "sandbox"}},
        "models": {"bound": {"method": "agreement", "roles": {"reward": "other"}}},
    }
    found = rewarded(served(tmp_path, source, **tables), "bound", group("4", "4"))
    assert [reward.value for reward in found.rewards] == [1.0, 1.0]


@pytest.mark.parametrize("block", TABLES)
def test_a_configuration_of_the_pages_is_accepted(block: str) -> None:
    assert Config(**tomllib.loads(block))
