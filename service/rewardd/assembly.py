"""From a configuration to a running service: pools opened, methods found, models wired."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rewardd import methods as method_package
from rewardd.config import Config, PoolConfig, SandboxPool, TorchPool, read_config
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
        for pool in self.pools.values():
            await pool.aclose()


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
    specs = _methods()
    pools: dict[str, Engine] = {}
    models: dict[str, ServedModel] = {}
    try:
        for name, pool in config.pools.items():
            pools[name] = await _open_pool(name, pool, config.data_dir.expanduser())
        for path in config.methods:
            await _add_user_methods(path, specs, pools, models)
        for name, model in config.models.items():
            if model.method not in specs:
                known = ", ".join(sorted(specs))
                raise StartRefused(f"[models.{name}]: no method `{model.method}`; known: {known}")
            models[name] = ServedModel(name, specs[model.method], model.roles, model.params)
        return Service(config, specs, Runner(models, pools))
    except BaseException:
        for engine in pools.values():
            await engine.aclose()
        raise


def _methods() -> dict[str, MethodSpec]:
    """Our methods, and those that installed packages offer as `rewardd.methods` entry points."""
    specs = discover(method_package)
    for entry in entry_points(group="rewardd.methods"):
        for spec in methods_in(entry.load()):
            register(specs, spec)
    return specs


async def _add_user_methods(
    path: Path,
    specs: dict[str, MethodSpec],
    pools: dict[str, Engine],
    models: dict[str, ServedModel],
) -> None:
    """Each reward of a user's file becomes a method, and a served model of the same name."""
    from rewardd.engines.sandbox import SandboxEngine
    from rewardd.engines.user_methods import load_user_methods

    pool = f"user:{path.stem}"
    engine = SandboxEngine(methods_file=path)
    pools[pool] = engine
    for spec in await load_user_methods(engine):
        register(specs, spec)
        models[spec.name] = ServedModel(spec.name, spec, dict.fromkeys(spec.roles, pool), {})


async def _open_pool(name: str, pool: PoolConfig, data_dir: Path) -> Engine:
    if isinstance(pool, SandboxPool):
        from rewardd.engines.sandbox import SandboxEngine

        return SandboxEngine(processes=pool.processes, memory_mb=pool.memory_mb)
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
    log.info("pool %s: %s, parity %.2g", name, engine.card.model, engine.card.parity or 0.0)
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
    kept = data_dir / "manifests" / f"{found.model.replace('/', '--')}-{found.revision}.json"
    if not kept.is_file():
        log.info("%s is new: computing its expected values with transformers", found.model)
        write_manifest(kept, check_model(path, found))
    return read_manifest(kept)
