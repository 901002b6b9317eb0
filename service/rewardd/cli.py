"""The `rewardd` command. Heavy imports stand in the commands: `--help` loads no model code."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rewardd.errors import RewarddError

app = typer.Typer(
    name="rewardd",
    help="A reward server for reinforcement learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Dtype(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback()
def about() -> None:
    """A reward server for reinforcement learning."""


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="A rewardd.toml.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model to serve: a directory, or an id with an optional @revision."),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Serve the embedded demo models.")] = False,
    methods: Annotated[
        list[Path] | None, typer.Option(help="A Python file with rewards of your own.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free port [8600].")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="For --model and --demo.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [auto].")] = None,
) -> None:
    """Serve rewards over HTTP until stopped."""
    from rewardd.commands.serve import serve

    given = {"host": host, "port": port}
    serve(
        config,
        models=model or [],
        demo=demo,
        methods=methods or [],
        server={name: value for name, value in given.items() if value is not None},
        dtype=dtype.value if dtype else None,
        device=device,
    )


@app.command()
def score(
    model: Annotated[str, typer.Option(help="The served model to ask.")],
    prompt: Annotated[str | None, typer.Option(help="The prompt, as one user turn.")] = None,
    response: Annotated[list[str] | None, typer.Option(help="A response; repeat.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Groups, one JSON object a line; - reads stdin.")
    ] = None,
    url: Annotated[str, typer.Option(envvar="REWARDD_URL")] = "http://127.0.0.1:8600",
    api_key: Annotated[str | None, typer.Option(envvar="REWARDD_API_KEY")] = None,
    json: Json = False,
) -> None:
    """Ask a running server to score responses."""
    from rewardd.commands.score import read_groups, score

    if (prompt is None) == (file is None):
        raise typer.BadParameter("give --prompt with --response, or --file")
    groups = read_groups(file) if file else [_group(prompt, response or [])]
    raise typer.Exit(score(url, api_key, model, groups, as_json=json))


def _group(prompt: str | None, responses: list[str]) -> dict[str, Any]:
    return {"prompt": prompt, "responses": [{"content": text} for text in responses]}


@app.command()
def methods(json: Json = False) -> None:
    """List the reward methods."""
    from rewardd.commands.methods import show

    show(as_json=json)


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="A directory, or an id with an optional @revision.")],
    write: Annotated[
        Path | None, typer.Option(help="Write the manifest, with expected values, here.")
    ] = None,
) -> None:
    """Compute a model's expected values with transformers (fp32, eager, batch 1)."""
    from rewardd.commands.check import check

    check(model, write)


@app.command()
def convert(
    src: Annotated[Path, typer.Argument(help="A model directory with pickled weights.")],
    dst: Annotated[Path, typer.Argument(help="Where the safetensors go.")],
) -> None:
    """Turn pickled weights into safetensors, offline, in a process that loads weights only."""
    from rewardd.engines.torch.convert import convert

    convert(src, dst)
    typer.echo(f"written: {dst}")


@app.command()
def demo(json: Json = False) -> None:
    """Measure the embedded demo models on held-out problems."""
    from rewardd.demo import figures

    figures.run(json=json)


@app.command()
def key(tenant: Annotated[str, typer.Argument(help="Who will use it.")]) -> None:
    """Make an API key; it is shown once, and the configuration holds its hash only."""
    from rewardd.keys import make_key

    secret, line = make_key()
    typer.echo(secret)
    typer.echo(
        f'\nKeep it: it is not shown again. For rewardd.toml:\n\n[tenants."{tenant}"]\n'
        f'keys = ["{line}"]',
        err=True,
    )


def main() -> None:
    """Run the command; what we refuse is one clean message and exit code 2."""
    try:
        app()
    except RewarddError as error:
        typer.echo(f"rewardd: {error.message}", err=True)
        sys.exit(2)
