"""From a configuration to a running service: pools opened, methods found, models wired."""

import logging
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rewardd import methods as method_package
from rewardd.config import Config, ModelConfig, PoolConfig, SandboxPool, TorchPool, read_config
from rewardd.core.calls import Engine
from rewardd.core.registry import MethodSpec, discover, methods_in, register
from rewardd.engines.manifest import Manifest, read_manifest, write_manifest
from rewardd.errors import StartRefused
from rewardd.runner import Runner, ServedModel

log = logging.getLogger(__name__)

_METHOD_OF_HEAD = {
    "classify": [("", "scalar", "reward"), ("-preference", "bradley_terry", "reward")],
    "token_classify": [("", "prm", "process")],
    "lm": [("", "self_certainty", "policy"), ("-rubric", "rubric", "judge")],
}


@dataclass(frozen=True, slots=True)
class Service:
    """All that the gateway needs of one process."""

    config: Config
    methods: Mapping[str, MethodSpec]
    runner: Runner
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def pools(self) -> Mapping[str, Engine]:
        return self.runner.pools

    async def aclose(self) -> None:
        """Close every pool, also when one of them cannot be closed."""
        async with AsyncExitStack() as stack:
            for pool in self.pools.values():
                stack.push_async_callback(pool.aclose)


def config_for(
    path: Path | None,
    *,
    models: list[str],
    demo: bool,
    methods: list[Path],
    server: dict[str, Any],
    dtype: str | None,
    device: str | None,
) -> Config:
    """The configuration of `path` under what the command line asks for."""
    from rewardd.engines.torch.directory import resolve_model

    engine = {key: value for key, value in (("dtype", dtype), ("device", device)) if value}
    tables: dict[str, Any] = {"pools": {}, "models": {}, "server": server}
    if methods:
        tables["methods"] = methods
    if demo:
        from rewardd.demo.serving import demo_tables

        _add(tables, demo_tables(engine))
    for model in models:
        _add(tables, _model_tables(resolve_model(model), engine))
    return read_config(path, tables)


def _add(tables: dict[str, Any], more: dict[str, Any]) -> None:
    for section in ("pools", "models"):
        for name, table in more[section].items():
            if name in tables[section]:
                raise StartRefused(f"two {section} are called `{name}`; use a configuration file")
            tables[section][name] = table


def _model_tables(path: Path, engine: dict[str, str]) -> dict[str, Any]:
    """A pool for the model, and the methods its head can serve."""
    from rewardd.engines.torch.detect import detect
    from rewardd.engines.torch.directory import model_name

    name = model_name(path).rpartition("/")[2]
    rows = _METHOD_OF_HEAD[detect(path).kind]
    return {
        "pools": {name: {"engine": "torch", "model": str(path), **engine}},
        "models": {
            name + suffix: {"method": method, "roles": {role: name}}
            for suffix, method, role in rows
        },
    }


async def open_service(config: Config) -> Service:
    """Open every pool and wire every model; StartRefused when something is unfit to serve."""
    specs = installed_methods()
    pools: dict[str, Engine] = {}
    homes: dict[str, str] = {}
    try:
        for name, pool in _all_pools(config).items():
            pools[name] = await _open_pool(name, pool, config.data_dir.expanduser())
            if isinstance(pool, SandboxPool) and pool.methods_file is not None:
                homes.update(await _add_user_methods(name, pools[name], specs))
        models = _as_they_are(specs, homes)
        models |= {name: _wire(name, model, specs, homes) for name, model in config.models.items()}
        if not models:
            raise StartRefused(_needs_models(homes))
        return Service(config, specs, Runner(models, pools))
    except BaseException:
        for engine in pools.values():
            with suppress(Exception):  # what failed first is what must be told
                await engine.aclose()
        raise


def _needs_models(homes: Mapping[str, str]) -> str:
    names = ", ".join(f"`{name}`" for name in homes)
    asking = f"; the methods {names} have roles, which a model binds to pools" if homes else ""
    return f"nothing is served: the configuration has no [models.NAME]{asking}"


def _all_pools(config: Config) -> dict[str, PoolConfig]:
    """The configured pools, and a sandbox for each file of `methods`."""
    pools = dict(config.pools)
    for path in config.methods:
        name = f"user:{path.stem}"
        if name in pools:
            raise StartRefused(f"two files of methods are called {path.stem}; rename one")
        pools[name] = SandboxPool(engine="sandbox", methods_file=path)
    return pools


def _wire(
    name: str, model: ModelConfig, specs: Mapping[str, MethodSpec], homes: Mapping[str, str]
) -> ServedModel:
    """A served model; a user's method finds its own sandbox by itself."""
    if model.method not in specs:
        known = ", ".join(sorted(specs))
        raise StartRefused(f"[models.{name}]: no method `{model.method}`; known: {known}")
    own = {"user": homes[model.method]} if model.method in homes else {}
    return ServedModel(name, specs[model.method], {**own, **model.roles}, model.params)


def _as_they_are(
    specs: Mapping[str, MethodSpec], homes: Mapping[str, str]
) -> dict[str, ServedModel]:
    """A user's methods that need no model but their own code, served under their names."""
    return {
        name: ServedModel(name, specs[name], {"user": pool}, {})
        for name, pool in homes.items()
        if specs[name].roles == ("user",)
    }


def installed_methods() -> dict[str, MethodSpec]:
    """Our methods, and those that installed packages offer as `rewardd.methods` entry points."""
    specs = discover(method_package)
    for entry in entry_points(group="rewardd.methods"):
        for spec in methods_in(entry.load()):
            register(specs, spec)
    return specs


async def _add_user_methods(
    pool: str, engine: Engine, specs: dict[str, MethodSpec]
) -> dict[str, str]:
    """Register the rewards of a user's file; the pool each of them lives in, by name."""
    from rewardd.engines.sandbox import SandboxEngine
    from rewardd.engines.user_methods import load_user_methods

    assert isinstance(engine, SandboxEngine)
    found = await load_user_methods(engine)
    for spec in found:
        register(specs, spec)
    return {spec.name: pool for spec in found}


async def _open_pool(name: str, pool: PoolConfig, data_dir: Path) -> Engine:
    if isinstance(pool, SandboxPool):
        from rewardd.engines.sandbox import SandboxEngine

        return SandboxEngine(pool.processes, pool.memory_mb, pool.methods_file)
    from rewardd.engines.torch.directory import resolve_model
    from rewardd.engines.torch.opening import open_torch

    path = resolve_model(pool.model)
    engine = await open_torch(
        path,
        _manifest(pool, path, data_dir),
        dtype=pool.dtype,
        device=pool.device,
        threads=pool.threads,
        max_batch_tokens=pool.max_batch_tokens,
        packing=pool.packing,
        probes=pool.probes,
    )
    parity = "unknown" if engine.card.parity is None else f"{engine.card.parity:.2g}"
    log.info("pool %s: %s, parity %s", name, engine.card.model, parity)
    return engine


def _manifest(pool: TorchPool, path: Path, data_dir: Path) -> Manifest:
    """Stated, else beside the model, else kept from an earlier start, else made now and kept."""
    from rewardd.engines.torch.check import check_model
    from rewardd.engines.torch.detect import detect

    if pool.manifest is not None:
        return read_manifest(pool.manifest)
    if (path / "rewardd.json").is_file():
        return read_manifest(path / "rewardd.json")
    found = detect(path)
    marks = (found.model.replace("/", "--"), found.revision, found.template_hash or "plain")
    kept = data_dir / "manifests" / f"{'-'.join(marks)}.json"
    if not kept.is_file():
        log.info("%s is new: computing its expected values with transformers", found.model)
        checked = check_model(path, found)
        try:
            write_manifest(kept, checked)
        except OSError as error:
            log.warning("cannot keep the manifest, so every start computes it: %s", error)
        return checked
    return read_manifest(kept)
