"""A model's directory as it lies on disk: JSON files and safetensors headers, no weights, no code.

Everything that decides how a model is read is learnt from here. Only safetensors are accepted: a
pickle runs code when it is opened, so a directory of pickles is refused and `rewardd convert`
named.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rewardd.errors import StartRefused

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
FETCHED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_SNAPSHOT = re.compile(r"models--(?P<id>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})/?$")
_MAX_JSON_BYTES = 256 * 1024 * 1024
_SAMPLES, _SAMPLE_BYTES = 64, 4096


@dataclass(frozen=True, slots=True)
class Directory:
    """`tensors`: name -> file. A PEFT adapter has its base model's directory as `base`."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Path]
    adapter: dict[str, Any] | None = None
    base: "Directory | None" = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return str((self.config.get("architectures") or [""])[0])

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def body(self) -> "Directory":
        """Where the body's weights lie: the base of an adapter, else this directory."""
        return self.base or self

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor, on the CPU, in the type it is stored in; KeyError when absent."""
        with safe_open(self.tensors[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor


def resolve_model(path_or_id: str) -> Path:
    """The local directory of `PATH` or `ORG/NAME[@REVISION]`, fetched from the hub if need be.

    Only JSON, tokenizer and safetensors files are fetched. StartRefused when neither the hub nor
    its cache has the model, and says what to do.
    """
    local = Path(path_or_id).expanduser()
    if local.is_dir():
        return local.resolve()
    repository, _, revision = path_or_id.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or path_or_id.startswith((".", "/", "~")):
        raise StartRefused(
            f"{path_or_id}: no such directory, and not a hub id (ORG/NAME or ORG/NAME@REVISION)"
        )
    return _fetch(repository, revision or None)


def _fetch(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    def download(*, offline: bool) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=FETCHED,
                local_files_only=offline,
            )
        )

    try:
        return download(offline=False)
    except Exception as error:  # offline, refused, gated or unknown: the cache may still have it
        try:
            return download(offline=True)
        except Exception:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise StartRefused(
                f"cannot fetch {repository} from the model hub ({reason}). Check the name, set"
                " HF_TOKEN if the model is gated, or download it where there is a network and"
                " serve the directory: rewardd serve --model PATH"
            ) from error


def read_directory(path: Path) -> Directory:
    """Read a model's JSON files and tensor names; StartRefused names the file at fault."""
    if not path.is_dir():
        raise StartRefused(f"{path}: no such directory")
    if (path / "adapter_config.json").is_file():
        return _read_adapter(path)
    if not (path / "config.json").is_file():
        raise StartRefused(f"{path}: no config.json, so this is no transformers model")
    tensors, shapes = _index(path, weight_files(path))
    return Directory(path, read_json(path / "config.json"), tensors, shapes=shapes)


def _read_adapter(path: Path) -> Directory:
    adapter = read_json(path / "adapter_config.json")
    file = path / "adapter_model.safetensors"
    if not file.is_file():
        _refuse_without_safetensors(path)
    name = str(adapter.get("base_model_name_or_path") or "")
    if not name:
        raise StartRefused(f"{path}/adapter_config.json: no base_model_name_or_path")
    beside = path / name
    base = read_directory(beside if beside.is_dir() else resolve_model(name))
    if base.adapter is not None:
        raise StartRefused(f"{path}: its base model {name} is an adapter itself; merge that first")
    tensors, shapes = _index(path, [file])
    return Directory(path, base.config, tensors, adapter, base, shapes)


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model, in order; StartRefused when there are none."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = sorted({str(name) for name in read_json(index).get("weight_map", {}).values()})
        missing = [name for name in names if "/" in name or not (path / name).is_file()]
        if missing or not names:
            raise StartRefused(f"{index}: its shards are not all there: {missing[:3]}")
        files = [path / name for name in names]
    else:
        files = [file for file in (path / "model.safetensors",) if file.is_file()]
    if not files:
        _refuse_without_safetensors(path)
    extra = path / "value_head.safetensors"  # LLaMA-Factory keeps TRL's head in a file of its own
    return [*files, extra] if extra.is_file() else files


def _refuse_without_safetensors(path: Path) -> None:
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise StartRefused(
            f"{path}: its weights are pickles ({pickles[0]}), which run code when opened."
            f" Turn them into safetensors first: rewardd convert {path} TARGET"
        )
    raise StartRefused(f"{path}: no safetensors weights")


def _index(path: Path, files: list[Path]) -> tuple[dict[str, Path], dict[str, tuple[int, ...]]]:
    tensors: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    tensors[name] = file
                    shapes[name] = tuple(opened.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise StartRefused(f"{file}: not a readable safetensors file: {error}") from error
    return tensors, shapes


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; StartRefused names the file when it is none."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise StartRefused(f"{path}: larger than {_MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StartRefused(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise StartRefused(f"{path}: not a JSON object")
    return value


def model_name(path: Path) -> str:
    """The hub id of a snapshot directory, else the directory's own name."""
    snapshot = _SNAPSHOT.search(path.as_posix())
    return snapshot["id"].replace("--", "/", 1) if snapshot else path.resolve().name


def revision_of(directory: Directory) -> str:
    """The hub commit of a snapshot, else a fingerprint of the content (12 hex digits).

    The fingerprint covers config.json, each safetensors header, samples of each shard, and an
    adapter's files: reading whole weights would cost a minute for a large model, and retrained
    weights differ everywhere.
    """
    snapshot = _SNAPSHOT.search(directory.path.as_posix())
    if snapshot:
        return snapshot["commit"]
    digest = hashlib.sha256()
    for name in ("config.json", "adapter_config.json"):
        if (directory.path / name).is_file():
            digest.update((directory.path / name).read_bytes())
    for file in sorted(set(directory.tensors.values())):
        for block in _blocks(file):
            digest.update(block)
    if directory.base is not None:
        digest.update(revision_of(directory.base).encode())
    return digest.hexdigest()[:12]


def _blocks(file: Path) -> Iterator[bytes]:
    """The header, then evenly spaced samples to the end of the file."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        header = min(int.from_bytes(opened.read(8), "little"), size)
        yield header.to_bytes(8, "little") + size.to_bytes(8, "little") + opened.read(header)
        last = max(0, size - _SAMPLE_BYTES)
        for step in range(_SAMPLES + 1):
            opened.seek(8 + header + (last - 8 - header) * step // _SAMPLES, os.SEEK_SET)
            yield opened.read(_SAMPLE_BYTES)
