"""`rewardd convert`: pickled weights into safetensors, without running what a pickle may hold.

The pickles are opened in a child process only (see `convert_child`): by torch's weights-only
unpickler, without our environment's secrets, with limits on memory, time and file sizes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from rewardd.engines.torch.directory import FETCHED, PICKLES, read_json
from rewardd.errors import StartRefused

_COPIED = (*FETCHED, "LICENSE*", "README*")
_NO_WEIGHTS = re.compile(r"^(training_args|optimizer|scheduler|scaler|rng_state|random_states)")
_RENAMED = (("pytorch_model", "model"), ("adapter_model", "adapter_model"))
_TIMEOUT_S = 3600.0


def convert(source: Path, target: Path) -> Path:
    """Write into `target` what a server needs of the model in `source`, as safetensors.

    JSON, tokenizer and safetensors files are copied, code is not. `target` appears only when
    everything has succeeded. StartRefused when there is nothing to convert, `target` exists, or a
    pickle holds anything but tensors in plain containers.
    """
    pickles = _pickles(source)
    if target.exists():
        raise StartRefused(f"{target}: exists already; name a directory to be made")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        _copy(source, made)
        names = {file.name: _new_name(file.name) for file in pickles}
        for file in pickles:
            _convert_one(file, made / names[file.name])
        _write_index(source, made, names)
        made.rename(target)
    return target


def _pickles(source: Path) -> list[Path]:
    if not source.is_dir():
        raise StartRefused(f"{source}: no such directory")
    files = [
        file
        for file in sorted(source.iterdir())
        if file.suffix in PICKLES and file.is_file() and not _NO_WEIGHTS.match(file.name)
    ]
    if not files:
        raise StartRefused(f"{source}: no pickled weights ({', '.join(PICKLES)}) to convert")
    twice = [file.name for file in files if (source / _new_name(file.name)).exists()]
    if twice:
        raise StartRefused(f"{source}: has {_new_name(twice[0])} beside {twice[0]} already")
    return files


def _new_name(name: str) -> str:
    """pytorch_model-00001-of-00002.bin -> model-00001-of-00002.safetensors, as the hub has it."""
    stem = name.rpartition(".")[0]
    for old, new in _RENAMED:
        if stem.startswith(old):
            stem = new + stem.removeprefix(old)
    return f"{stem}.safetensors"


def _copy(source: Path, made: Path) -> None:
    for pattern in _COPIED:
        for file in source.glob(pattern):
            if file.is_file() and not file.name.endswith(".bin.index.json"):
                shutil.copyfile(file, made / file.name)


def _convert_one(file: Path, to: Path) -> None:
    command = [sys.executable, "-m", "rewardd.engines.torch.convert_child", str(file), str(to)]
    # Nothing of ours goes along: no tokens, no proxies; only where Python finds its modules.
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "HF_HUB_OFFLINE": "1",
    }
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=to.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StartRefused(f"{file}: not converted within {_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0 or not to.is_file():
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise StartRefused(f"{file}: not converted, its content was not run: {reason[:500]}")
    to.chmod(0o644)  # safetensors writes for the owner alone; a server may run as another user


def _write_index(source: Path, made: Path, names: dict[str, str]) -> None:
    """The shards' index under the new names."""
    old = source / "pytorch_model.bin.index.json"
    if not old.is_file():
        return
    index = read_json(old)
    shards = {str(tensor): str(file) for tensor, file in index.get("weight_map", {}).items()}
    absent = sorted(set(shards.values()) - names.keys())
    if absent:
        raise StartRefused(f"{old}: names shards that are not there: {absent[:3]}")
    index["weight_map"] = {tensor: names[file] for tensor, file in shards.items()}
    (made / "model.safetensors.index.json").write_bytes(msgspec.json.encode(index))
