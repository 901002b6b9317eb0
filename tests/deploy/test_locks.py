"""The locks: complete, hashed, and the same on every machine."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
OURS = {"rewardd", "rewardd-client"}
_ENTRY = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ \\;]+)", re.MULTILINE)
_PLACE = re.compile(r"file:|https?:|(^|\s)-f\b|find-links|index-url|(^|[\s=\"'])[./~]+/|[A-Z]:\\")


def test_there_is_a_lock_for_each_purpose() -> None:
    assert {"cpu", "gpu", "dev"} <= {lock.stem for lock in LOCKS}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_names_no_place(lock: Path) -> None:
    found = [line for line in lock.read_text().splitlines() if _PLACE.search(line)]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "torch @ file:///wheels/torch-2.13.0-cp311.whl \\",
        "--find-links /wheels",
        "-f wheels",
        "--index-url https://pypi.example.com/simple",
        "./clients",
        "../wheels/torch.whl",
    ],
)
def test_a_place_would_be_noticed(line: str) -> None:
    assert _PLACE.search(line)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_leaves_torch_and_our_own_out(lock: Path) -> None:
    names = {name for name, _ in _ENTRY.findall(lock.read_text())}
    assert not names & {"torch", *OURS}
    assert len(names) > 3


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_entry_is_exact_and_hashed(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", lock.read_text().strip())
    for entry in entries:
        assert _ENTRY.match(entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_locks_agree_with_one_another() -> None:
    """`make test` installs dev.lock over the lock that serves: it must not change a version."""
    tables = {lock.stem: dict(_ENTRY.findall(lock.read_text())) for lock in LOCKS}
    for name, table in tables.items():
        for package, version in table.items():
            assert tables["dev"].get(package, version) == version, f"{package} in {name}"


def test_torch_has_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = " ".join(project["optional-dependencies"]["torch"])
    found = {
        "pyproject": re.findall(r"torch == ([\d.]+)", extra),
        "Makefile": re.findall(r"torch==([\d.]+)", (ROOT / "Makefile").read_text()),
        "Dockerfile": re.findall(r"torch==([\d.]+)", (ROOT / "docker/Dockerfile").read_text()),
    }
    assert all(len(set(versions)) == 1 for versions in found.values()), found
    assert len({version for versions in found.values() for version in versions}) == 1, found


def test_the_project_has_one_version_everywhere() -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    client = tomllib.loads((ROOT / "clients/pyproject.toml").read_text())["project"]["version"]
    assert client == ours
    for name in ("docker/Dockerfile", "docker/compose.yaml", "deploy/base/kustomization.yaml"):
        assert ours in (ROOT / name).read_text(), name
    assert f"## [{ours}]" in (ROOT / "CHANGELOG.md").read_text()
