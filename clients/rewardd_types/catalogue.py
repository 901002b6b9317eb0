"""Bodies of the catalogue and the health routes."""

from typing import Any

from msgspec import Struct


class MethodInfo(Struct, frozen=True):
    """A registered reward method and the JSON schema of its parameters."""

    name: str
    family: str
    summary: str
    roles: list[str]
    reads: list[str]
    gives: list[str]
    paper: str | None
    revision: str
    params_schema: dict[str, Any]
    metrics: list[str] = []


class MethodList(Struct, frozen=True):
    object: str
    data: list[MethodInfo]


class PoolInfo(Struct, frozen=True):
    """An engine serving one model, and how its scores were checked at load.

    `parity` is the largest difference from the manifest's expected values (relative above 1).
    """

    name: str
    engine: str
    engine_version: str
    model: str
    revision: str
    dtype: str
    head: str | None = None
    max_length: int | None = None
    template_hash: str | None = None
    packed: bool | None = None
    packed_reason: str | None = None
    parity: float | None = None


class ModelInfo(Struct, frozen=True):
    """A served reward; `id`, `object`, `created` and `owned_by` are OpenAI's shape."""

    id: str
    method: str
    family: str
    gives: list[str]
    roles: dict[str, str]
    params: dict[str, Any]
    pools: list[PoolInfo]
    object: str = "model"
    created: int = 0
    owned_by: str = "rewardd"


class ModelList(Struct, frozen=True):
    object: str
    data: list[ModelInfo]


class Health(Struct, frozen=True):
    """`ok`, or the names of the pools that are not ready with the reason of each."""

    status: str
    pools: dict[str, str] = {}
