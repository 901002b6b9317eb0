"""`rewardd check`: what a model should answer, computed with transformers."""

from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from rewardd.core.chat import prompt_text, response_text
from rewardd.engines.manifest import Manifest, write_manifest
from rewardd.engines.torch.check import check_model
from rewardd.engines.torch.directory import resolve_model
from rewardd.errors import StartRefused


def check(model: str, write: Path | None) -> None:
    """Print the manifest with its expected values, or write it and print a summary."""
    manifest = check_model(resolve_model(model))
    if write is None:
        print(msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode())
        return
    try:
        write_manifest(write, manifest)
    except OSError as error:
        raise StartRefused(f"{write}: {error.strerror}") from error
    console = Console()
    console.print(_table(manifest))
    console.print(f"written: {write}", markup=False)


def _table(manifest: Manifest) -> Table:
    title = f"{manifest.model}: {manifest.architecture}, head {manifest.head}"
    table = Table("prompt", "response", "expected", title=title)
    for probe in manifest.probes:
        for response, values in zip(probe.group.responses, probe.values, strict=True):
            shown = " ".join(f"{value:.4f}" for value in values[:8])
            table.add_row(_short(prompt_text(probe.group)), _short(response_text(response)), shown)
    return table


def _short(text: str) -> str:
    line = text.replace("\n", " ").replace("[", r"\[")
    return line if len(line) <= 48 else line[:47] + "…"
