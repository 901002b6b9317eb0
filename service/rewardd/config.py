"""Configuration: the only reader of files and of the environment.

Read once at start, frozen, validated; an unknown key is refused with its place. Sources, the later
winning: defaults, `rewardd.toml`, `REWARDD_SERVER__*` variables, command-line options.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from rewardd.errors import StartRefused


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TorchPool(Section):
    """A model on the torch engine.

    `threads` 0 leaves torch's own choice; `max_batch_tokens` bounds the unique tokens of one
    forward; `packing` "off" forces the padded path; `probes` says what a worker does whose scores
    differ from the manifest's expected values.
    """

    engine: Literal["torch"] = "torch"
    model: str
    manifest: Path | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    threads: int = Field(0, ge=0, le=1024)
    max_batch_tokens: int = Field(16_384, ge=16, le=10_000_000)
    packing: Literal["auto", "off"] = "auto"
    probes: Literal["enforce", "warn"] = "enforce"


class SandboxPool(Section):
    """Child processes that run verifiers, and a user's own rewards with `methods_file`."""

    engine: Literal["sandbox"]
    processes: int = Field(1, ge=1, le=256)
    memory_mb: int = Field(1024, ge=64, le=1_000_000)
    methods_file: Path | None = None


def _engine(pool: Any) -> Any:
    """Which kind of pool a table is; one that does not say is torch."""
    return pool.get("engine", "torch") if isinstance(pool, dict) else getattr(pool, "engine", None)


PoolConfig = Annotated[
    Annotated[TorchPool, Tag("torch")] | Annotated[SandboxPool, Tag("sandbox")],
    Discriminator(_engine),
]


class ModelConfig(Section):
    """A served reward: what a client names as `model`."""

    method: str
    roles: dict[str, str] = {}
    params: dict[str, Any] = {}


class Server(Section):
    """Where to listen. Without tenants, only loopback is allowed.

    After SIGTERM, /readyz says 503 for `drain_notice_s` while the port stays open, then requests in
    flight have `drain_s` to finish.
    """

    host: str = "127.0.0.1"
    port: int = Field(8600, ge=0, le=65_535)
    request_timeout_s: float = Field(600.0, gt=0, le=86_400)
    max_body_mb: int = Field(64, ge=1, le=1024)
    drain_s: float = Field(30.0, ge=0, le=3600)
    drain_notice_s: float = Field(1.0, ge=0, le=300)
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Tenant(Section):
    """Who may call: `keys` are lines made by `rewardd key`, hashes and never the keys."""

    keys: list[str] = Field(min_length=1)


class Config(BaseSettings):
    """The whole configuration of one process."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="REWARDD_", env_nested_delimiter="__"
    )

    server: Server = Server()
    pools: dict[str, PoolConfig] = {}
    models: dict[str, ModelConfig] = {}
    tenants: dict[str, Tenant] = {}
    methods: list[Path] = []
    data_dir: Path = Path("~/.local/share/rewardd")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `read_config` merges the sources, so that options beat variables


def read_config(path: Path | None, changes: dict[str, Any] | None = None) -> Config:
    """Read `path` (or nothing) under `changes`; StartRefused names each wrong key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
        environment = EnvSettingsSource(Config)()
        return Config(**_merge(_merge(table, environment), changes or {}))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, SettingsError) as error:
        raise StartRefused(f"{path or 'configuration'}: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise StartRefused("\n".join([f"{path or 'configuration'}:", *lines])) from error


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        deeper = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if deeper else value
    return merged
