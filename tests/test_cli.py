"""The `rewardd` command, as a process: what it prints, and how it refuses."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewardd.config import Tenant
from rewardd.keys import KeyRing


def rewardd(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rewardd", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "200"},
    )


def refused(*arguments: str) -> str:
    """The message of a command that must refuse: exit code 2, one message, no traceback."""
    done = rewardd(*arguments)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_with_nothing_to_serve_the_start_is_refused() -> None:
    message = refused("serve")
    assert message.startswith("rewardd: nothing to serve")
    for fix in ("--demo", "--model", "--config"):
        assert fix in message


def test_a_pool_with_methods_is_something_to_serve(tmp_path: Path) -> None:
    file = tmp_path / "rewardd.toml"
    file.write_text("[pools.mine]\nengine = 'sandbox'\nmethods_file = 'absent.py'\n")
    assert "no methods file absent.py" in refused("serve", "--config", str(file), "--port", "0")


def test_a_wrong_configuration_names_the_key(tmp_path: Path) -> None:
    file = tmp_path / "rewardd.toml"
    file.write_text("[server]\nhots = '127.0.0.1'\n")
    message = refused("serve", "--config", str(file))
    assert "server.hots" in message
    assert "rewardd.toml" in message
    assert "absent.toml" in refused("serve", "--config", str(tmp_path / "absent.toml"))


@pytest.fixture
def a_model(tmp_path: Path) -> Path:
    """A configuration that has something to serve, and would fail when it is opened."""
    file = tmp_path / "rewardd.toml"
    file.write_text("[models.m]\nmethod = 'scalar'\nroles.reward = 'nothing'\n")
    return file


def test_an_open_server_stays_on_loopback(a_model: Path) -> None:
    message = refused("serve", "--config", str(a_model), "--host", "0.0.0.0")
    assert "rewardd key" in message


def test_a_taken_port_is_refused_before_models_are_opened(a_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refused("serve", "--config", str(a_model), "--port", port)
    assert port in message
    assert "--port" in message


def test_help_loads_no_model_code() -> None:
    code = (
        "import sys, rewardd.cli;"
        "print([m for m in ('torch', 'transformers', 'fastapi', 'uvicorn', 'rewardd_client')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done
    shown = rewardd("--help").stdout
    for command in ("serve", "score", "methods", "check", "convert", "demo", "key"):
        assert re.search(rf"\b{command}\b", shown)


def test_a_key_is_printed_once_with_its_line() -> None:
    done = rewardd("key", "lab")
    key = done.stdout.strip()
    line = re.search(r'keys = \["(\S+)"\]', done.stderr)
    assert line is not None
    assert '[tenants."lab"]' in done.stderr
    assert key not in done.stderr
    assert KeyRing({"lab": Tenant(keys=[line[1]])}).tenant_of(key) == "lab"


def test_methods_are_listed() -> None:
    rows = json.loads(rewardd("methods", "--json").stdout)
    scalar = next(row for row in rows if row["name"] == "scalar")
    assert scalar["roles"] == ["reward"]
    assert scalar["paper"].startswith("arXiv:")
    assert "scalar" in rewardd("methods").stdout


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server over small engines (tests/gateway)."""
    command = [sys.executable, "-m", "tests.gateway.serve_small"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found is not None
        yield found[0]
        process.terminate()


def test_score_prints_a_table(url: str) -> None:
    ask = ("--url", url, "--model", "demo-outcome", "--prompt", "2 + 2")
    done = rewardd("score", *ask, "--response", "4", "--response", "[bold]5")
    assert done.returncode == 0, done
    assert "[bold]5" in done.stdout
    assert done.stdout.count("ok") == 2


def test_score_reads_groups_and_fails_when_one_does(url: str, tmp_path: Path) -> None:
    groups = [
        {"id": "a", "prompt": "p", "responses": [{"content": "4"}]},
        {"id": "b", "prompt": "p", "responses": [{"content": "<nan>"}, {"content": "5"}]},
    ]
    text = "\n".join(map(json.dumps, groups)) + "\n\n"
    file = tmp_path / "groups.jsonl"
    file.write_text(text)
    ask = ("--url", url, "--model", "demo-outcome", "--json", "--file")
    for done in (rewardd("score", *ask, str(file)), rewardd("score", *ask, "-", stdin=text)):
        assert done.returncode == 1, done
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["id"] for row in rows] == ["a", "b"]
        assert rows[1]["rewards"][0]["error"]["code"] == "non_finite"


def test_a_line_ends_with_a_newline_and_nothing_else(url: str, tmp_path: Path) -> None:
    file = tmp_path / "groups.jsonl"
    group = {"prompt": "p", "responses": [{"content": "a\u2028b\x85c"}]}
    file.write_text(json.dumps(group, ensure_ascii=False) + "\r\n", encoding="utf-8")
    done = rewardd("score", "--url", url, "--model", "demo-outcome", "--json", "--file", str(file))
    assert done.returncode == 0, done


def test_score_says_what_is_wrong(url: str, tmp_path: Path) -> None:
    message = refused(
        "score", "--url", url, "--model", "nobody", "--prompt", "p", "--response", "r"
    )
    assert "demo-outcome" in message
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "p", "responses": []}\n{"prompt"\n')
    assert "line 2" in refused("score", "--url", url, "--model", "m", "--file", str(bad))
    bad.write_text('{"prompt": "p", "responses": [{}]}\n')
    assert "$.responses[0]" in refused("score", "--url", url, "--model", "m", "--file", str(bad))
    assert "--file" in refused("score", "--url", url, "--model", "m")
    ask = ("--model", "m", "--prompt", "p", "--response", "r")
    assert "http://" in refused("score", "--url", "localhost:8600", *ask)
    absent = str(tmp_path / "absent.jsonl")
    assert "absent.jsonl" in refused("score", "--url", url, "--model", "m", "--file", absent)
