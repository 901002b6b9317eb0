"""`rewardd serve`: one process with gateway and engines."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from rewardd.assembly import Service, config_for
from rewardd.config import Config, SandboxPool
from rewardd.errors import StartRefused
from rewardd.gateway.samples import curl_line
from rewardd.gateway.server import serve as run
from rewardd.telemetry import configure_logging

_NOTHING = (
    "nothing to serve: add `--demo` for the embedded demo models, `--model PATH_OR_ID` for one of"
    " yours, or `--config FILE` with [models.NAME] sections"
)


def serve(
    config_path: Path | None,
    *,
    models: list[str],
    demo: bool,
    methods: list[Path],
    server: dict[str, Any],
    dtype: str | None,
    device: str | None,
) -> None:
    """Serve until a signal; StartRefused when there is nothing to serve or it cannot be served."""
    config = config_for(
        config_path,
        models=models,
        demo=demo,
        methods=methods,
        server=server,
        dtype=dtype,
        device=device,
    )
    if not _offers_something(config):
        raise StartRefused(_NOTHING)
    configure_logging(config.server.log_level)
    run(config, announce)


def _offers_something(config: Config) -> bool:
    own = (isinstance(pool, SandboxPool) and pool.methods_file for pool in config.pools.values())
    return bool(config.models or config.methods or any(own))


def announce(service: Service, url: str) -> None:
    """Say on stdout where the server is, and show one call that works when pasted."""
    served = service.runner.models
    console = Console(highlight=False, soft_wrap=True)
    console.print("[bold]rewardd is ready:[/bold]", escape(f"{url}   docs: {url}/docs"))
    console.print(f"serving: {', '.join(served)}\n", markup=False)
    key = "$REWARDD_API_KEY" if service.config.tenants else ""
    first = next(iter(served.values()))
    console.print(curl_line(url, first, served, key) + "\n", markup=False)
