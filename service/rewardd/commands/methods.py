"""`rewardd methods`: the reward methods of this installation."""

import json
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from rewardd.assembly import installed_methods
from rewardd.core.registry import MethodSpec


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    family: str
    gives: list[str]
    roles: list[str]
    reads: list[str]
    paper: str | None
    summary: str


def show(*, as_json: bool) -> None:
    """Print every registered method."""
    rows = [_row(spec) for _, spec in sorted(installed_methods().items())]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table("method", "family", "gives", "roles", "reads", "paper", "what it is")
    for row in rows:
        lists = (", ".join(items) for items in (row.gives, row.roles, row.reads))
        table.add_row(row.name, row.family, *lists, row.paper or "", row.summary)
    Console().print(table)


def _row(spec: MethodSpec) -> _Row:
    return _Row(
        name=spec.name,
        family=spec.family,
        gives=list(spec.gives),
        roles=list(spec.roles),
        reads=list(spec.reads),
        paper=spec.paper,
        summary=spec.summary,
    )
