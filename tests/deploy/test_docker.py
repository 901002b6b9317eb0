"""The Dockerfile and the compose file: their rules, mutants of each, agreement with the rest."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewardd.config import Server, read_config
from rewardd.errors import StartRefused
from rewardd.gateway.auth import check_exposure
from tests.deploy import dockerfile

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker/Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
IMAGE = dockerfile.parse(TEXT)[-1]

# rule -> the changes that break it: (what stands there, what is put in its place)
MUTANTS = {
    "bases_are_pinned": [
        ("FROM python:3.11.14-slim-bookworm", "FROM python:latest"),
        ("FROM python:3.11.14-slim-bookworm", "FROM python:3.11-slim"),
        ("FROM python:3.11.14-slim-bookworm", "FROM python"),
    ],
    "the_image_runs_as_nobody_special": [
        ("USER 10001:10001\n", ""),
        ("USER 10001:10001", "USER root"),
        ("EXPOSE 8600", "USER root\nEXPOSE 8600"),
        ("EXPOSE 8600", "RUN touch /etc/later"),
    ],
    "versions_are_exact": [
        ("hatchling==1.33.0", "hatchling"),
        ("$index torch==", "$index torch>="),
        ("--no-deps --require-hashes -r", "--no-deps -r"),
        ("--no-deps --no-build-isolation ./clients .", "./clients ."),
        ("RUN python -m venv", "RUN apt-get install -y make && python -m venv"),
    ],
    "nothing_is_cached_or_fetched_by_add": [
        ("PIP_NO_CACHE_DIR=1 ", ""),
        ("COPY service service", "ADD service service"),
    ],
    "no_secret_is_baked_in": [
        ("ARG LOCK=cpu", "ARG LOCK=cpu\nARG HF_TOKEN"),
        ("HF_HUB_DISABLE_TELEMETRY=1", "REWARDD_API_KEY=1"),
        ("./clients .", "-e ./clients -e ."),
    ],
    "the_image_says_whether_it_lives": [("'/livez'", "'/docs'")],
    "signals_reach_the_server": [
        ('ENTRYPOINT ["rewardd"]', "ENTRYPOINT rewardd"),
        ('CMD ["serve"]', 'CMD ["score"]'),
    ],
    "a_read_only_root_is_enough": [
        ("    HOME=/var/lib/rewardd \\\n", ""),
        ("PYTHONDONTWRITEBYTECODE=1", "PYTHONDONTWRITEBYTECODE=0"),
    ],
}


def test_the_dockerfile_keeps_the_rules() -> None:
    assert dockerfile.broken(TEXT) == []


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [(rule, old, new) for rule, changes in MUTANTS.items() for old, new in changes],
)
def test_a_broken_rule_is_noticed(rule: str, old: str, new: str) -> None:
    assert old in TEXT
    assert any(what.startswith(rule) for what in dockerfile.broken(TEXT.replace(old, new)))


def test_every_rule_has_its_mutants() -> None:
    assert set(MUTANTS) == set(dockerfile.RULES)


def test_it_installs_what_make_serve_installs() -> None:
    """Step by step, but not editable; `make -n` says what make would run."""
    plan = subprocess.run(
        ["make", "-n", "serve", "LOCK=cpu", "VENV=fresh", "PYTHON=python3", "TORCH_INDEX="],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    made = re.findall(r" -m pip [^\n]*?install ([^\n]*)", plan)
    expected = [steps.replace(" editables==0.6", "").replace("-e ", "") for steps in made]
    found = dockerfile.pip_installs(dockerfile.parse(TEXT))
    plain = [words.replace("${LOCK}", "cpu").replace("$index ", "") for words in found]
    assert [" ".join(words.replace("./", "").split()) for words in plain] == [
        " ".join(words.split()) for words in expected
    ]
    assert len(plain) == 4


@pytest.mark.parametrize("lock", ["cpu", "gpu"])
def test_the_locks_it_names_exist(lock: str) -> None:
    assert (ROOT / f"requirements/{lock}.lock").is_file()
    assert f"{lock}) index=" in TEXT


def test_what_it_copies_reaches_the_builder() -> None:
    """.dockerignore lets pass what is copied, and keeps keys and environments out."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    passed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    for words in dockerfile.parse(TEXT)[1].of("COPY"):
        for source in words.split(" ")[:-1]:
            name = source.replace("${LOCK}", "*")
            assert name in passed
            assert list(ROOT.glob(name))
    assert all(path.exists() for name in passed for path in ROOT.glob(name))
    assert not any(re.search(r"docker|\.git|deploy|tests", name) for name in passed)


def test_the_image_without_tenants_is_refused_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in dockerfile.environment(IMAGE).items():
        if name.startswith("REWARDD_"):
            monkeypatch.setenv(name, value)
    config = read_config(None)
    assert (config.server.host, config.server.port) == ("0.0.0.0", 8600)
    assert str(config.data_dir) == "/var/lib/rewardd"
    assert IMAGE.of("EXPOSE") == ["8600"]
    with pytest.raises(StartRefused, match="rewardd key"):
        check_exposure(config)


class _Answers(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def answering(status: int) -> Iterator[int]:
    handler = type("Answers", (_Answers,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_the_health_check_asks_the_port_and_no_proxy(status: int, expected: int) -> None:
    python, *arguments = dockerfile.healthcheck(IMAGE)
    assert python == "python"
    with answering(status) as port:
        environment = {
            **os.environ,
            "REWARDD_SERVER__PORT": str(port),
            "http_proxy": "http://127.0.0.1:1",
        }
        done = subprocess.run([sys.executable, *arguments], env=environment, check=False)
    assert done.returncode == expected


def compose_breaches(compose: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the compose file, by name of the key."""
    for service in compose["services"].values():
        if any(not port.startswith("127.0.0.1:") for port in service["ports"]):
            yield "ports"
        if service.get("read_only") is not True:
            yield "read_only"
        if service.get("cap_drop") != ["ALL"] or "cap_add" in service:
            yield "cap_drop"
        if service.get("security_opt") != ["no-new-privileges:true"]:
            yield "security_opt"
        if not service.get("mem_limit") or service.get("memswap_limit") != service["mem_limit"]:
            yield "mem_limit"
        if not service.get("pids_limit"):
            yield "pids_limit"
        if service.get("user") != IMAGE.of("USER")[0] or service.get("privileged"):
            yield "user"
        if not re.fullmatch(r"[^:]+:\d+\.\d+\.\d+", service["image"]):
            yield "image"
        if re.search(r"rwd_|[0-9a-f]{64}", str(service)) or "environment" in service:
            yield "secrets"
        grace = int(service.get("stop_grace_period", "10s").removesuffix("s"))
        if grace <= Server().drain_notice_s + Server().drain_s:
            yield "stop_grace_period"


def test_compose_keeps_the_rules() -> None:
    assert list(compose_breaches(COMPOSE)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ports", ["8600:8600"]),
        ("ports", ["0.0.0.0:8600:8600"]),
        ("read_only", False),
        ("cap_drop", []),
        ("security_opt", []),
        ("mem_limit", "8g"),
        ("pids_limit", None),
        ("user", "root"),
        ("image", "rewardd:latest"),
        ("image", "rewardd"),
        ("stop_grace_period", "10s"),
    ],
)
def test_a_broken_compose_rule_is_noticed(key: str, value: Any) -> None:
    service = {**COMPOSE["services"]["rewardd"], key: value}
    assert key in list(compose_breaches({"services": {"rewardd": service}}))


def test_compose_names_files_that_are_there_or_made_by_the_reader() -> None:
    service = COMPOSE["services"]["rewardd"]
    build = service["build"]
    context = (ROOT / "docker" / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).is_file()
    (name,) = service["secrets"]
    assert f"/run/secrets/{name}" in service["command"]
    file = Path(COMPOSE["secrets"][name]["file"])
    assert file.name in (ROOT / "docker/.gitignore").read_text().split()
    assert set(COMPOSE["volumes"]) == {"data"}


def test_the_line_that_makes_a_key_gives_a_file_the_server_reads(tmp_path: Path) -> None:
    """The shell line of docker/README.md, with the image replaced by this installation."""
    page = (ROOT / "docker/README.md").read_text()
    (line,) = re.findall(r"^docker run .* key local .*$", page, flags=re.MULTILINE)
    command = re.sub(r"docker run --rm \S+", f"{sys.executable} -m rewardd", line)
    (tmp_path / "docker").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(["bash", "-ec", command], cwd=tmp_path, env=environment, check=True)
    config = read_config(tmp_path / "docker/rewardd.toml")
    assert (tmp_path / "docker/key.txt").read_text().startswith("rwd_")
    assert list(config.tenants) == ["local"]
