"""Pickled weights: converted where they are only weights, and never run where they are not."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loadtest import tiny_models
from rewardd.engines.torch.check import probe_groups
from rewardd.engines.torch.convert import convert
from rewardd.engines.torch.detect import detect
from rewardd.engines.torch.reference import reference_values
from rewardd.errors import StartRefused


class Bomb:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def pickled(name: str, path: Path, file: str = "pytorch_model.bin") -> Path:
    """A tiny model whose weights are a pickle, as before safetensors."""
    tiny_models.build(name, path)
    weights = path / "model.safetensors"
    torch.save(OrderedDict(load_file(weights)), path / file)
    weights.unlink()
    return path


def test_converted_model_scores_as_before(tmp_path: Path) -> None:
    original = tiny_models.build("qwen3", tmp_path / "original")
    target = convert(pickled("qwen3", tmp_path / "pickled"), tmp_path / "converted")

    manifest = detect(target)
    group = probe_groups(manifest)[0]
    assert reference_values(target, manifest, group) == reference_values(original, manifest, group)
    assert not [file for file in target.iterdir() if file.suffix in (".bin", ".py")]


def test_detection_of_pickles_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="rewardd convert"):
        detect(pickled("qwen2", tmp_path / "model"))


def test_shards_keep_their_index(tmp_path: Path) -> None:
    source = tiny_models.build("llama", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"00001": names[: len(names) // 2], "00002": names[len(names) // 2 :]}
    weight_map = {}
    for number, members in shards.items():
        file = f"pytorch_model-{number}-of-00002.bin"
        torch.save({name: tensors[name] for name in members}, source / file)
        weight_map.update(dict.fromkeys(members, file))
    index = {"metadata": {}, "weight_map": weight_map}
    (source / "pytorch_model.bin.index.json").write_text(str(index).replace("'", '"'))

    manifest = detect(convert(source, tmp_path / "target"))
    assert manifest.head == "sequence_classification"
    files = sorted(file.name for file in (tmp_path / "target").glob("*.safetensors"))
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    whole = torch.arange(12.0).reshape(3, 4)
    content = {"a": whole, "tied": whole, "row": whole[1], "turned": whole.T}
    torch.save({"state_dict": content, "epoch": 3}, source / "heads.pth")

    converted = load_file(convert(source, tmp_path / "target") / "heads.safetensors")
    assert converted.keys() == content.keys()
    assert all(torch.equal(converted[name], content[name]) for name in content)


def test_nested_heads_are_joined_by_dots(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    torch.save({"regression_head": {"0.weight": torch.ones(2, 2)}}, source / "heads.pth")
    converted = load_file(convert(source, tmp_path / "target") / "heads.safetensors")
    assert list(converted) == ["regression_head.0.weight"]


@pytest.mark.parametrize("legacy", [True, False], ids=["plain pickle", "torch archive"])
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    source, mark = tmp_path / "source", tmp_path / "ran"
    source.mkdir()
    bomb = {"weight": torch.ones(1), "bomb": Bomb(f"touch {mark}")}
    if legacy:
        (source / "pytorch_model.bin").write_bytes(pickle.dumps(bomb["bomb"]))
    else:
        torch.save(bomb, source / "pytorch_model.bin")
    with pytest.raises(StartRefused, match="not run: UnpicklingError"):
        convert(source, tmp_path / "target")

    assert not mark.exists()
    assert not (tmp_path / "target").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source"]


def test_the_bomb_would_have_gone_off(tmp_path: Path) -> None:
    """Guards the test above: opened as usual, the same archive does run its command."""
    torch.save({"bomb": Bomb(f"touch {tmp_path}/ran")}, tmp_path / "bomb.bin")
    torch.load(tmp_path / "bomb.bin", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("files", "reason"),
    [({}, "no pickled weights"), ({"training_args.bin": b""}, "no pickled weights")],
)
def test_nothing_to_convert(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_bytes(content)
    with pytest.raises(StartRefused, match=reason):
        convert(source, tmp_path / "target")


def test_existing_target_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(StartRefused, match="exists already"):
        convert(pickled("qwen2", tmp_path / "source"), tmp_path / "target")


def test_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    source = pickled("qwen2", tmp_path / "source")
    (source / "pytorch_model.bin.index.json").write_text(
        '{"weight_map": {"score.weight": "../other/pytorch_model.bin"}}'
    )
    with pytest.raises(StartRefused, match="not there"):
        convert(source, tmp_path / "target")
