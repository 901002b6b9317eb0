"""The public names are a promise; importing them is cheap."""

import subprocess
import sys
import tomllib
from pathlib import Path

import rewardd_client

ROOT = Path(__file__).parents[2]

PUBLIC = {
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequest",
    "Client",
    "Criterion",
    "DeadlineExceeded",
    "Group",
    "GroupReward",
    "Health",
    "InvalidRequest",
    "MalformedAnswer",
    "Message",
    "MethodInfo",
    "ModelInfo",
    "NotFound",
    "PayloadTooLarge",
    "PermissionDenied",
    "RateLimited",
    "Receipt",
    "Response",
    "Reward",
    "RewardError",
    "RewarddError",
    "ServerError",
    "StepReward",
    "Unavailable",
    "__version__",
    "values",
}

VERBS = {"score", "compare", "steps", "rubric"}


def public(noun: object) -> set[str]:
    return {name for name in dir(noun) if not name.startswith("_")}


def test_exported_members() -> None:
    assert set(rewardd_client.__all__) == PUBLIC
    assert all(hasattr(rewardd_client, name) for name in PUBLIC)


def test_nouns_and_verbs() -> None:
    client, async_client = rewardd_client.Client(), rewardd_client.AsyncClient()
    shared = VERBS | {"rewards", "models", "methods", "health", "wait_ready"}
    assert public(client) == shared | {"close"}
    assert public(async_client) == shared | {"aclose"}
    for either in (client, async_client):
        assert public(either.rewards) == VERBS
        assert public(either.models) == public(either.methods) == {"list"}
    client.close()


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "clients/pyproject.toml").read_text())["project"]
    assert rewardd_client.__version__ == project["version"]


def test_importing_the_client_loads_nothing_heavy() -> None:
    heavy = ["numpy", "torch", "transformers", "pydantic", "fastapi", "starlette", "rewardd"]
    code = f"import sys, rewardd_client; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
