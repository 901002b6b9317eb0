"""Every snippet of the client's pages runs, and what the page counts is so."""

import re
from pathlib import Path

import pytest

import rewardd_client
from rewardd_client import Client
from rewardd_client._retry import RetryPolicy
from rewardd_types import limits
from tests.clients.server import ScriptedServer

ROOT = Path(__file__).parents[2]
URL = "http://127.0.0.1:8600"
PAGES = ["docs/sdk.md", "clients/README.md"]
SNIPPETS = [
    pytest.param(snippet, id=f"{page}-{index}")
    for page in PAGES
    for index, snippet in enumerate(
        re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    )
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_snippet_runs(snippet: str, server: ScriptedServer) -> None:
    assert URL in snippet
    code = compile(snippet.replace(URL, server.url), "snippet", "exec")
    exec(code, {"__name__": "snippet"})
    assert server.seen


def test_the_table_of_statuses_names_every_exception() -> None:
    page = (ROOT / "docs/sdk.md").read_text()
    errors = [
        name
        for name in rewardd_client.__all__
        if isinstance(cls := getattr(rewardd_client, name), type) and issubclass(cls, Exception)
    ]
    assert [name for name in errors if f"`{name}`" not in page and f" {name} " not in page] == []


def test_the_figures_of_the_page() -> None:
    policy = RetryPolicy()
    assert (policy.max_retries, policy.first_delay_s, policy.max_delay_s) == (4, 0.5, 8.0)
    assert policy.max_retry_after_s == 60.0
    assert limits.MAX_BODY_BYTES == 64 * 2**20
    assert (limits.MAX_GROUPS, limits.MAX_RESPONSES) == (1024, 4096)
    with Client() as client:
        assert client._endpoint.timeout_s == 600.0
        assert client._endpoint.url == URL
