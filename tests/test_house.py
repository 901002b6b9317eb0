"""The house rules, as far as a program can check them: layers, types, style, sizes, imports."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("service", "clients", "loadtest")
    for path in (ROOT / folder).rglob("*.py")
    if ".venv" not in path.parts
)
HEAVY = ("torch", "vllm", "redis", "fastapi", "diffusers", "transformers")


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["importlinter.cli", "lint"],
    ],
    ids=lambda command: " ".join(command),
)
def test_the_checkers_find_nothing(command: list[str]) -> None:
    if command[0] == "importlinter.cli":
        program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
        run = [sys.executable, "-c", program]
    else:
        run = [sys.executable, "-m", *command]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["rewardd.runner", "rewardd.methods", "rewardd_client"])
def test_importing_the_pure_parts_loads_nothing_heavy(module: str) -> None:
    program = (
        "import sys, rewardd.methods, rewardd.core.registry as r;"
        f"import {module}; r.discover(rewardd.methods);"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            assert size <= 40, f"{node.name} has {size} lines"


def test_nothing_unpickles_and_no_middleware_hides_a_disconnect() -> None:
    forbidden = re.compile(
        r"BaseHTTPMiddleware|import pickle|trust_remote_code=True|(?<![\w.])(eval|exec)\("
    )
    found = [str(path.relative_to(ROOT)) for path in SOURCES if forbidden.search(path.read_text())]
    assert found == []
