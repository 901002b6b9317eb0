"""`python -m loadtest NAME [--json]`."""

import warnings
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Json = Annotated[bool, typer.Option("--json", help="Print the last line only.")]


@app.command()
def parity(json: Json = False) -> None:
    """Scores over HTTP against transformers, on twelve tiny architectures, and mutants."""
    from loadtest.parity import run

    run(quiet=json)


@app.command()
def smoke(json: Json = False) -> None:
    """1,000 single-response requests at concurrency 64 against the demo."""
    from loadtest.smoke import run

    run(quiet=json)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    app()
