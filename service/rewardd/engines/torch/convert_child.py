"""The process that opens a pickle: `python -m rewardd.engines.torch.convert_child FROM TO`.

The only place in the project that unpickles. torch's weights-only unpickler refuses every global
that is not a tensor or a plain container; the limits hold should it have a hole. Exit status 0, or
the reason on the last line of stderr.
"""

import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_CPU_S = 3600
_ROOM_BYTES = 2 * 1024**3
_WRAPPERS = ("state_dict", "model_state_dict", "module")
_MAX_DEPTH = 8


def main(source: Path, target: Path) -> None:
    """Convert one file. Shared and strided tensors are written out as ones of their own."""
    _limit(source.stat().st_size)
    torch.set_num_threads(1)  # no new threads either
    content = torch.load(source, map_location="cpu", weights_only=True)
    tensors = dict(_tensors(_unwrapped(content), ""))
    if not tensors:
        raise ValueError("it holds no tensors")
    save_file(_own_storage(tensors), target, metadata={"format": "pt"})


def _limit(size: int) -> None:
    """No more memory, time or disk than the conversion needs, no core dumps, no new processes."""
    used = _address_space()
    _lower(resource.RLIMIT_AS, used + 3 * size + _ROOM_BYTES)
    _lower(resource.RLIMIT_FSIZE, 2 * size + _ROOM_BYTES)
    _lower(resource.RLIMIT_CPU, _CPU_S)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NPROC, 0)


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _address_space() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):  # no /proc: leave room for the libraries
        return 64 * 1024**3
    return pages * resource.getpagesize()


def _unwrapped(content: Any) -> Any:
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            return content[name]
    return {"weight": content} if isinstance(content, Tensor) else content


def _tensors(content: Any, prefix: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """All tensors, nested dictionaries joined by dots; settings beside them are left out."""
    if not isinstance(content, Mapping) or depth > _MAX_DEPTH:
        return
    for name, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value.detach()
        else:
            yield from _tensors(value, f"{prefix}{name}.", depth + 1)


def _own_storage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory: a copy for each that is not alone in its."""
    seen: set[int] = set()
    owned = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        seen.add(storage.data_ptr())
        owned[name] = tensor.contiguous() if alone else tensor.contiguous().clone()
    return owned


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr)
        sys.exit(1)
