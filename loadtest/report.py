"""How a measurement speaks: words for people, and one last line of JSON for programs."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def say(line: str, quiet: bool) -> None:
    """Progress for people; nothing with `--json`, whose output is the last line alone."""
    if not quiet:
        Console(highlight=False).print(line, markup=False)


def emit(name: str, figures: Mapping[str, Any], quiet: bool) -> None:
    """The figures, as a table unless `quiet`, and as the last line."""
    if not quiet:
        table = Table("figure", "value", title=name)
        for key, value in figures.items():
            table.add_row(key, str(value))
        Console().print(table)
    print(json.dumps({"name": name, "figures": figures}))
