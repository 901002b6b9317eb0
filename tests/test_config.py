"""Configuration: one reader, strict, and each mistake named with its place."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest

from rewardd.config import Config, SandboxPool, TorchPool, read_config
from rewardd.errors import StartRefused

Write = Callable[[str], Path]
FULL = """
data_dir = "/data"
methods = ["mine.py"]

[server]
port = 9000
host = "0.0.0.0"

[pools.main]
model = "org/model@v1"
dtype = "bfloat16"

[pools.rules]
engine = "sandbox"
processes = 4

[models.helpful]
method = "scalar"
roles.reward = "main"

[models.mix]
method = "weighted"
params.models = { helpful = 0.5 }

[tenants.team]
keys = ["sha256:abc"]
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No REWARDD_ variable of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("REWARDD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(text: str) -> Path:
        path = tmp_path / "rewardd.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return file


def test_nothing_stated_is_loopback_without_models() -> None:
    config = read_config(None)
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8600)
    assert (config.pools, config.models, config.tenants, config.methods) == ({}, {}, {}, [])


def test_a_whole_file(write: Write) -> None:
    config = read_config(write(FULL))
    assert (config.server.port, config.data_dir) == (9000, Path("/data"))
    main, rules = config.pools["main"], config.pools["rules"]
    assert isinstance(main, TorchPool)
    assert (main.engine, main.model, main.dtype) == ("torch", "org/model@v1", "bfloat16")
    assert isinstance(rules, SandboxPool)
    assert rules.processes == 4
    assert config.models["helpful"].roles == {"reward": "main"}
    assert config.models["mix"].params == {"models": {"helpful": 0.5}}
    assert config.tenants["team"].keys == ["sha256:abc"]
    assert config.methods == [Path("mine.py")]


def test_it_is_frozen(write: Write) -> None:
    config = read_config(write(FULL))
    with pytest.raises(pydantic.ValidationError):
        config.server.port = 1  # type: ignore[misc]
    with pytest.raises(pydantic.ValidationError):
        config.data_dir = Path("/")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("prot = 1", "prot"),
        ("[server]\nprot = 1", "server.prot"),
        ('[pools.main]\nmodel = "m"\nreplicas = 2', "pools.main.torch.replicas"),
        ('[pools.main]\nengine = "sandbox"\nmodel = "m"', "pools.main.sandbox.model"),
        ('[models.a]\nmethod = "m"\nrole.reward = "x"', "models.a.role"),
        ('[tenants.a]\nkeys = ["k"]\nquota = 3', "tenants.a.quota"),
    ],
)
def test_an_unknown_key_is_refused_with_its_place(write: Write, text: str, place: str) -> None:
    with pytest.raises(StartRefused) as refused:
        read_config(write(text))
    first, *lines = refused.value.message.splitlines()
    assert first.endswith("rewardd.toml:")
    assert lines == [f"{place}: Extra inputs are not permitted"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[server]\nport = "many"', "server.port"),
        ("[server]\nport = 70000", "server.port"),
        ("[server]\nrequest_timeout_s = 0", "server.request_timeout_s"),
        ('[server]\nlog_level = "loud"', "server.log_level"),
        ("[pools.main]\nmodel = 3", "pools.main.torch.model"),
        ("[pools.main]", "pools.main.torch.model"),
        ('[pools.main]\nengine = "magic"', "pools.main"),
        ('[pools.main]\nmodel = "m"\ndtype = "int8"', "pools.main.torch.dtype"),
        ('[pools.main]\nmodel = "m"\nmax_batch_tokens = 1', "pools.main.torch.max_batch_tokens"),
        ("[models.a]", "models.a.method"),
        ('[models.a]\nmethod = "m"\nroles = ["reward"]', "models.a.roles"),
        ("[tenants.a]\nkeys = []", "tenants.a.keys"),
        ("pools = 3", "pools"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(write: Write, text: str, place: str) -> None:
    with pytest.raises(StartRefused) as refused:
        read_config(write(text))
    assert f"\n{place}: " in refused.value.message


def test_all_mistakes_are_told_at_once(write: Write) -> None:
    with pytest.raises(StartRefused) as refused:
        read_config(write("[server]\nport = -1\nprot = 2\n[models.a]"))
    assert len(refused.value.message.splitlines()) == 4


@pytest.mark.parametrize("text", ["[server", "a = ", "\0"])
def test_what_is_no_toml(write: Write, text: str) -> None:
    with pytest.raises(StartRefused, match=r"rewardd\.toml: "):
        read_config(write(text))


def test_a_file_is_utf8_whatever_the_locale(write: Write) -> None:
    path = write("data_dir = '/data/\u00e9'")
    code = f"from rewardd.config import *; print(ascii(read_config(Path({str(path)!r})).data_dir))"
    posix = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=posix)
    assert r"/data/\xe9" in done.stdout, done


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="absent"):
        read_config(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b'data_dir = "\xe9"')
    with pytest.raises(StartRefused, match=r"latin\.toml"):
        read_config(tmp_path / "latin.toml")


class TestPrecedence:
    """Defaults, then the file, then the environment, then options."""

    @pytest.fixture
    def three(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("REWARDD_SERVER__PORT", "9001")
        monkeypatch.setenv("REWARDD_SERVER__HOST", "1.1.1.1")
        return write('[server]\nport = 9000\nhost = "0.0.0.0"\nmax_body_mb = 8')

    def test_each_beats_the_one_below(self, three: Path) -> None:
        server = read_config(three, {"server": {"port": 9002}}).server
        assert (server.port, server.host, server.max_body_mb) == (9002, "1.1.1.1", 8)
        assert server.drain_s == 30.0

    def test_options_add_to_tables_of_the_file(self, write: Write) -> None:
        config = read_config(write(FULL), {"pools": {"other": {"model": "x"}}})
        assert list(config.pools) == ["main", "rules", "other"]

    def test_options_leave_the_file_as_it_is_where_they_say_nothing(self, write: Write) -> None:
        config = read_config(write(FULL), {"pools": {}, "models": {}, "server": {}})
        assert config == read_config(write(FULL))

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("REWARDD_SERVER__PORT", "many", "server.port"),
            ("REWARDD_SERVER__PROT", "1", "server.prot"),
            ("REWARDD_POOLS", "not json", "pools"),
        ],
    )
    def test_a_wrong_variable_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(StartRefused, match=words):
            read_config(None)

    def test_the_clients_variables_are_not_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REWARDD_URL", "http://x")
        monkeypatch.setenv("REWARDD_API_KEY", "k")
        assert read_config(None) == Config()


def test_two_configurations_share_nothing() -> None:
    one: dict[str, Any] = {"server": {"port": 1}}
    read_config(None, one)
    assert one == {"server": {"port": 1}}
    assert read_config(None).server.port == 8600
