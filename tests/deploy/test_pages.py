"""What the pages count, quote and show is so: snippets run, names and messages are the code's."""

import json
import re
import shlex
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

import rewardd.methods
from rewardd.config import Server
from rewardd.core.registry import discover
from rewardd.demo.serving import demo_tables
from rewardd.engines.torch import opening
from rewardd.gateway.doors import DOORS
from rewardd.telemetry import Telemetry
from rewardd_types import RewardRequest, limits
from tests.clients.server import ScriptedServer, ServerThread

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = {page.name: page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))}
DEMO = demo_tables({})["models"]
URL = "http://127.0.0.1:8600"


def test_the_readme_opens_with_the_two_commands() -> None:
    title, first, *rest = README.split("\n\n")
    assert title == "# rewardd"
    assert re.findall(r"^make (\w+)", first, flags=re.MULTILINE) == ["serve", "test"]
    assert rest


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docker/README.md"])
def test_a_curl_line_is_a_request_of_the_demo(page: Path) -> None:
    found = re.findall(r"^curl -s .*?(?=^```)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    for command in found:
        words = shlex.split(command)
        request = msgspec.json.decode(words[words.index("-d") + 1], type=RewardRequest)
        assert words[2] in {URL + door.path for door in DOORS}
        assert request.model in DEMO


def test_the_snippet_of_the_readme_runs() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    with ServerThread(ScriptedServer()) as server:
        exec(compile(snippet.replace(URL, server.url), "README", "exec"), {})
        assert server.seen


def test_the_readme_lists_the_models_of_the_demo() -> None:
    rows = dict(re.findall(r"^\| `(demo-\w+)` \| `(\w+)` \|", README, flags=re.MULTILINE))
    assert rows == {name: model["method"] for name, model in DEMO.items()}


def test_the_index_lists_every_page() -> None:
    linked = set(re.findall(r"\]\((\w[\w.-]*\.md)\)", DOCS["index.md"]))
    assert linked == set(DOCS) - {"index.md"}


def test_every_method_has_its_paragraph_and_every_parameter_its_line() -> None:
    specs = discover(rewardd.methods)
    parts = re.split(r"^## ", DOCS["methods.md"], flags=re.MULTILINE)[1:]
    sections = {part.split("\n")[0]: part for part in parts}
    assert set(sections) == set(specs)
    for name, spec in specs.items():
        section = sections[name]
        stated = set(re.findall(r"^- `(\w+)`", section, flags=re.MULTILINE))
        assert stated == {field.name for field in msgspec.structs.fields(spec.params)}, name
        words = [*spec.roles, *spec.reads, *spec.metrics]
        assert [word for word in words if f"`{word}`" not in section] == [], name
        assert spec.paper is None or spec.paper in section
        assert spec.family in section.lower()


def test_the_metrics_of_the_page_are_those_of_the_server() -> None:
    families = text_string_to_metric_families(Telemetry().render().decode())
    ours = {family.name for family in families if family.name.startswith("rewardd_")}
    named = re.findall(r"^\| `(rewardd_\w+)` \|", DOCS["operations.md"], flags=re.MULTILINE)
    assert {name.removesuffix("_total") for name in named} == ours


def test_the_messages_of_the_page_are_those_of_the_code() -> None:
    sources = [path.read_text() for path in sorted((ROOT / "service").rglob("*.py"))]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources)).replace("{section}", "pools")
    rows = re.findall(r"^\| (`.+?) \| ", DOCS["own-models.md"], flags=re.MULTILINE)
    messages = [text for row in rows for text in re.findall(r"`([^`]+)`", row) if " " in text]
    assert len(messages) > 10
    pieces = [piece.strip() for text in messages for piece in text.split("...")]
    assert [piece for piece in pieces if piece not in code] == []


def test_the_figures_of_the_pages() -> None:
    operations, own = DOCS["operations.md"], DOCS["own-models.md"]
    server = Server()
    assert f"`server.drain_notice_s` ({server.drain_notice_s:g})" in operations
    assert f"`server.drain_s` ({server.drain_s:g})" in operations
    assert f"| {server.max_body_mb} MB a body" in operations
    assert f"| {server.request_timeout_s:g} s a request" in operations
    assert f"{limits.MAX_GROUPS:,} groups a request" in operations
    assert f"{limits.MAX_RESPONSES:,} responses a group" in operations
    allowed = sorted(opening._TOLERANCE.values())
    assert allowed == [5e-4, 1e-2, 5e-2]
    assert "5e-4 (fp32), 1e-2 (fp16) or 5e-2 (bf16)" in " ".join(own.split())


@pytest.mark.parametrize("name", sorted(DOCS))
def test_json_of_a_page_is_json(name: str) -> None:
    for block in re.findall(r"```json\n(.*?)```", DOCS[name], flags=re.DOTALL):
        json.loads(block)
