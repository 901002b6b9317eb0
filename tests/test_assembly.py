"""Assembly: from a configuration to a service, or a refusal that leaves nothing behind."""

import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from loadtest import tiny_models
from rewardd import assembly
from rewardd.assembly import Service, config_for, open_service
from rewardd.commands import check as check_command
from rewardd.commands.methods import show
from rewardd.config import Config, TorchPool, read_config
from rewardd.core.calls import Scope
from rewardd.engines.manifest import read_manifest, write_manifest
from rewardd.engines.torch.check import check_model
from rewardd.errors import StartRefused
from rewardd.runner import Runner
from rewardd_types import Group, Response

pytestmark = pytest.mark.anyio

torch.set_num_threads(1)
GROUP = Group([Response(content="4"), Response(content="5")], prompt="2 + 2?")
NOW = Scope()


Tiny = Callable[[str], Path]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models whose expected values were computed."""
    seen: list[Path] = []

    def check(path: Path, *args: Any) -> Any:
        seen.append(path)
        return check_model(path, *args)

    monkeypatch.setattr("rewardd.engines.torch.check.check_model", check)
    return seen


def options(**given: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"models": [], "demo": False, "methods": [], "server": {}}
    return {**nothing, "dtype": None, "device": None, **given}


def tables(path: Path, data_dir: Path, **more: Any) -> Config:
    """One torch pool `main`, and a scalar model `m` on it."""
    pool = {"model": str(path), "device": "cpu", **more.pop("pool", {})}
    model = {"method": "scalar", "roles": {"reward": "main"}}
    base: dict[str, Any] = {"pools": {"main": pool}, "models": {"m": model}}
    return read_config(None, {**base, "data_dir": str(data_dir), **more})


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Service]:
    service = await open_service(config)
    try:
        yield service
    finally:
        await service.aclose()


def device_threads() -> int:
    return sum(thread.name.startswith("device") for thread in threading.enumerate())


class TestConfigFor:
    @pytest.mark.parametrize(
        ("name", "methods"),
        [
            ("qwen3", {"qwen3": "scalar", "qwen3-preference": "bradley_terry"}),
            ("bert", {"bert": "scalar", "bert-preference": "bradley_terry"}),
            ("qwen2_prm", {"qwen2_prm": "prm"}),
            ("qwen3_lm", {"qwen3_lm": "self_certainty", "qwen3_lm-rubric": "rubric"}),
        ],
    )
    def test_a_model_is_served_by_what_its_head_can(
        self, tiny: Tiny, name: str, methods: dict[str, str]
    ) -> None:
        config = config_for(None, **options(models=[str(tiny(name))]))
        assert {model: table.method for model, table in config.models.items()} == methods
        assert list(config.pools) == [name]
        assert all(list(table.roles.values()) == [name] for table in config.models.values())

    def test_dtype_and_device_are_the_models(self, tiny: Tiny) -> None:
        given = options(models=[str(tiny("qwen3"))], dtype="bfloat16", device="cpu")
        pool = config_for(None, **given).pools["qwen3"]
        assert isinstance(pool, TorchPool)
        assert (pool.dtype, pool.device) == ("bfloat16", "cpu")

    def test_several_models_and_a_file(self, tiny: Tiny, tmp_path: Path) -> None:
        file = tmp_path / "rewardd.toml"
        file.write_text('[pools.rules]\nengine = "sandbox"\n[server]\nport = 9000\n')
        given = options(
            models=[str(tiny("qwen3")), str(tiny("bert"))],
            server={"port": 1234},
            methods=[Path("mine.py")],
        )
        config = config_for(file, **given)
        assert list(config.pools) == ["rules", "qwen3", "bert"]
        assert config.server.port == 1234
        assert config.methods == [Path("mine.py")]

    def test_two_models_of_one_name_are_refused(self, tiny: Tiny, tmp_path: Path) -> None:
        copy = shutil.copytree(tiny("qwen3"), tmp_path / "qwen3")
        with pytest.raises(StartRefused, match="two pools are called `qwen3`"):
            config_for(None, **options(models=[str(tiny("qwen3")), str(copy)]))

    def test_a_model_that_is_not_there(self) -> None:
        with pytest.raises(StartRefused, match="no such directory"):
            config_for(None, **options(models=["./absent"]))


class TestManifests:
    async def test_made_at_the_first_start_and_kept(
        self, tiny: Tiny, tmp_path: Path, counted: list[Path]
    ) -> None:
        config = tables(tiny("qwen3"), tmp_path)
        async with serving(config) as service:
            (one,) = await service.runner.reward(service.runner.model("m"), [GROUP], NOW)
        async with serving(config) as service:
            (two,) = await service.runner.reward(service.runner.model("m"), [GROUP], NOW)
            assert service.pools["main"].card.parity is not None
        assert counted == [tiny("qwen3")]
        assert [r.value for r in one.rewards] == [r.value for r in two.rewards]
        (kept,) = (tmp_path / "manifests").iterdir()
        assert read_manifest(kept).probes

    async def test_another_model_of_that_name_is_computed_anew(
        self, tmp_path: Path, counted: list[Path]
    ) -> None:
        paths = [tiny_models.build("qwen3", tmp_path / str(n) / "qwen3", seed=n) for n in range(2)]
        for path in paths:
            async with serving(tables(path, tmp_path)):
                pass
        assert counted == paths

    async def test_an_edited_template_is_read_at_the_next_start(
        self, tiny: Tiny, tmp_path: Path, counted: list[Path]
    ) -> None:
        path = shutil.copytree(tiny("qwen3"), tmp_path / "qwen3")
        async with serving(tables(path, tmp_path)) as service:
            before = service.pools["main"].card.template_hash
        template = path / "chat_template.jinja"
        template.write_text(template.read_text().replace("'content']", "'content'] | upper"))
        async with serving(tables(path, tmp_path)) as service:
            assert service.pools["main"].card.template_hash != before
        assert counted == [path, path]

    async def test_beside_the_model(self, tiny: Tiny, tmp_path: Path, counted: list[Path]) -> None:
        path = shutil.copytree(tiny("qwen3"), tmp_path / "qwen3")
        write_manifest(path / "rewardd.json", check_model(path))
        async with serving(tables(path, tmp_path)) as service:
            assert service.pools["main"].card.parity is not None
        assert counted == []
        assert not (tmp_path / "manifests").exists()

    async def test_a_stated_one_wins(self, tiny: Tiny, tmp_path: Path, counted: list[Path]) -> None:
        file = tmp_path / "mine.json"
        write_manifest(file, check_model(tiny("qwen3")))
        text = json.loads(file.read_text())
        file.write_text(json.dumps({**text, "model": "renamed"}))
        config = tables(tiny("qwen3"), tmp_path, pool={"manifest": str(file)})
        async with serving(config) as service:
            assert service.pools["main"].card.model == "renamed"
        assert counted == []

    @pytest.mark.parametrize("content", [None, "{", '{"model": "m"}', '{"unknown": 1}'])
    async def test_one_that_cannot_be_read_is_named(
        self, tiny: Tiny, tmp_path: Path, content: str | None
    ) -> None:
        file = tmp_path / "mine.json"
        if content is not None:
            file.write_text(content)
        with pytest.raises(StartRefused, match=r"mine\.json"):
            await open_service(tables(tiny("qwen3"), tmp_path, pool={"manifest": str(file)}))

    async def test_where_nothing_can_be_kept_it_serves_all_the_same(
        self, tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "data").write_text("a file where the directory should be")
        async with serving(tables(tiny("qwen3"), tmp_path / "data")) as service:
            assert service.pools["main"].card.parity is not None
        assert "cannot keep the manifest" in caplog.text


class TestRefusals:
    async def test_an_unknown_method_lists_the_known(self, tiny: Tiny, tmp_path: Path) -> None:
        models = {"m": {"method": "scaler", "roles": {"reward": "main"}}}
        with pytest.raises(StartRefused, match=r"\[models.m\]: no method `scaler`; .*scalar"):
            await open_service(tables(tiny("qwen3"), tmp_path, models=models))

    @pytest.mark.parametrize(
        ("model", "words"),
        [
            ({"method": "scalar"}, "needs the role `reward`"),
            ({"method": "scalar", "roles": {"reward": "absent"}}, "names no pool"),
            ({"method": "weighted", "params": {"models": {"m": 1}}}, "cycle"),
            ({"method": "weighted"}, r"\[models.m\]: params of `weighted`"),
        ],
    )
    async def test_a_wiring_that_cannot_work(
        self, tiny: Tiny, tmp_path: Path, model: dict[str, Any], words: str
    ) -> None:
        before = device_threads()
        with pytest.raises(StartRefused, match=words):
            await open_service(tables(tiny("qwen3"), tmp_path, models={"m": model}))
        assert device_threads() == before

    async def test_pools_already_open_are_closed_when_a_later_one_fails(
        self, tiny: Tiny, tmp_path: Path
    ) -> None:
        pools = {
            "good": {"model": str(tiny("qwen3")), "device": "cpu"},
            "bad": {"model": str(tmp_path), "device": "cpu"},
        }
        before = device_threads()
        with pytest.raises(StartRefused, match=r"no config\.json"):
            await open_service(tables(tiny("qwen3"), tmp_path, pools=pools))
        assert device_threads() == before

    async def test_one_that_cannot_be_closed_does_not_keep_the_others_open(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[str] = []

        class Stubborn:
            def __init__(self, name: str) -> None:
                self.name = name

            async def aclose(self) -> None:
                closed.append(self.name)
                raise OSError("stuck")

        async def open_pool(name: str, *args: Any) -> Any:
            if name == "bad":
                raise StartRefused("no")
            return Stubborn(name)

        monkeypatch.setattr(assembly, "_open_pool", open_pool)
        pools = {name: {"model": "x"} for name in ("a", "b", "bad")}
        with pytest.raises(StartRefused, match="no"):
            await open_service(tables(tiny("qwen3"), tmp_path, pools=pools))
        assert closed == ["a", "b"]

    async def test_a_pool_that_cannot_be_closed_keeps_no_other_open(self) -> None:
        closed: list[str] = []

        class Pool:
            def __init__(self, name: str) -> None:
                self.name = name

            async def aclose(self) -> None:
                closed.append(self.name)
                raise OSError("stuck")

        pools: dict[str, Any] = {name: Pool(name) for name in ("a", "b")}
        with pytest.raises(OSError, match="stuck"):
            await Service(Config(), {}, Runner({}, pools)).aclose()
        assert sorted(closed) == ["a", "b"]


def test_a_manifest_that_cannot_be_written_is_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_command, "check_model", lambda path: None)
    (tmp_path / "file").touch()
    with pytest.raises(StartRefused, match=r"mine\.json: "):
        check_command.check(str(tiny("qwen3")), tmp_path / "file" / "mine.json")


MINE = '''
def brevity(prompt, response, reference=None, **extra) -> float:
    """Shorter is better."""
    return 1.0 / (1 + len(response))

REWARDS = {"brevity": brevity}
'''

ASKING = """
import msgspec
from rewardd.core.flow import gather
from rewardd.core.registry import reward_method
from rewardd_types import Group, GroupReward

class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass

@reward_method("asking", family="mine", roles=("reward",))
def asking(group: Group, params: Params):
    yield from gather([])
    return GroupReward([])
"""


class TestUserMethods:
    async def test_methods_of_installed_packages_are_listed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        spec = msgspec.structs.replace(assembly.installed_methods()["scalar"], name="theirs")
        package = SimpleNamespace(theirs=SimpleNamespace(__reward_method__=spec))
        entry = SimpleNamespace(load=lambda: package)
        monkeypatch.setattr(assembly, "entry_points", lambda group: [entry])
        show(as_json=True)
        assert "theirs" in {row["name"] for row in json.loads(capsys.readouterr().out)}

    async def test_methods_that_no_model_binds_serve_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(ASKING)
        config = read_config(None, {"methods": [str(tmp_path / "mine.py")]})
        with pytest.raises(StartRefused, match=r"no \[models.NAME\]; the methods `asking` have"):
            await open_service(config)

    async def test_they_are_served_under_their_names(self, tiny: Tiny, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(MINE)
        config = read_config(None, {"methods": [str(tmp_path / "mine.py")]})
        async with serving(config) as service:
            assert "brevity" in service.methods
            model = service.runner.model("brevity")
            (found,) = await service.runner.reward(model, [GROUP], NOW)
            assert [reward.value for reward in found.rewards] == [0.5, 0.5]

    async def test_a_sandbox_pool_may_bring_its_file(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(MINE)
        pool = {"engine": "sandbox", "processes": 2, "methods_file": str(tmp_path / "mine.py")}
        models = {"short": {"method": "brevity"}}
        config = read_config(None, {"pools": {"rules": pool}, "models": models})
        async with serving(config) as service:
            (found,) = await service.runner.reward(service.runner.model("short"), [GROUP], NOW)
            assert [reward.value for reward in found.rewards] == [0.5, 0.5]
            assert found.receipts[0].pool == "rules"

    async def test_two_files_of_one_name_are_refused(self, tmp_path: Path) -> None:
        paths = [tmp_path / name / "mine.py" for name in ("a", "b")]
        for path in paths:
            path.parent.mkdir()
            path.write_text(MINE)
        config = read_config(None, {"methods": [str(path) for path in paths]})
        with pytest.raises(StartRefused, match="two files of methods are called mine"):
            await open_service(config)

    async def test_a_name_that_is_taken_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(MINE.replace('"brevity"', '"scalar"'))
        config = read_config(None, {"methods": [str(tmp_path / "mine.py")]})
        with pytest.raises(StartRefused, match="two reward methods are called `scalar`"):
            await open_service(config)
