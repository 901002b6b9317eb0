"""`rewardd score`: ask a running server, and show what it says."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rewardd.errors import InvalidRequest
from rewardd_client import Client, RewarddError
from rewardd_types import Group, GroupReward, Response, Reward

_FAILED = 1


def read_groups(path: Path) -> list[dict[str, Any]]:
    """Groups from a file of JSON lines, or from stdin; InvalidRequest names the bad line."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: {error}") from error
    # `splitlines` would also cut at U+2028 and its like, which may stand inside a JSON string.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [_read(path, number, line) for number, line in lines]


def _read(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{path}, line {number}: {error}") from error


def score(
    url: str, api_key: str | None, model: str, given: list[dict[str, Any]], *, as_json: bool
) -> int:
    """Score groups and print the rewards; the exit code is 1 when some could not be scored."""
    groups = [_group(number, fields) for number, fields in enumerate(given, 1)]
    try:
        with Client(url, api_key=api_key) as client:
            rewards = client.rewards.score(model=model, groups=groups)
    except (RewarddError, ValueError) as error:
        raise InvalidRequest(str(error)) from error
    if as_json:
        for reward in rewards:
            print(msgspec.json.encode(reward).decode())
    else:
        Console().print(_table(model, groups, rewards))
    return 0 if all(reward.status == "ok" for reward in rewards) else _FAILED


def _group(number: int, fields: dict[str, Any]) -> Group:
    try:
        return msgspec.convert(fields, Group)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"group {number}: {error}") from error


def _table(model: str, groups: Sequence[Group], rewards: Sequence[GroupReward]) -> Table:
    table = Table("group", "response", "value", "status", title=model)
    for number, (group, reward) in enumerate(zip(groups, rewards, strict=True), 1):
        for response, item in zip(group.responses, reward.rewards, strict=True):
            name = Text(group.id or str(number))
            table.add_row(name, Text(_short(response)), _value(item), Text(_status(item)))
        table.add_section()
    return table


def _value(reward: Reward) -> str:
    return "" if reward.value is None else f"{reward.value:.6g}"


def _status(reward: Reward) -> str:
    return f"{reward.status}: {reward.error.message}" if reward.error else reward.status


def _short(response: Response) -> str:
    forms = (response.content, response.text, "\n".join(response.steps or []))
    line = next((form for form in forms if form), response.id or "").replace("\n", " ")
    return line if len(line) <= 60 else line[:59] + "…"
