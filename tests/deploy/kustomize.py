"""As much of `kustomize build` as our manifests use; anything else is refused, never guessed.

There is no kustomize on PyPI. Known here: resources, namespace, configMapGenerator (files, behavior
`replace`, the name suffix), patches (strategic merge, by path) and images.
"""

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Object: TypeAlias = dict[str, Any]

_HEAD = {"apiVersion", "kind"}
_CLUSTER_WIDE = {"Namespace"}
# The keys by which Kubernetes merges lists of objects; all other lists are replaced.
_MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumes": "name",
}


def build(folder: Path) -> list[Object]:
    """The objects that `kubectl apply -k FOLDER` would send."""
    objects, maps = _build(folder)
    names = {name: _suffixed(name, data) for name, data in maps.items()}
    for found in objects:
        _rename_config_maps(found, names)
    namespace = objects[0].get("metadata", {}).get("name")
    generated = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": names[name], "namespace": namespace},
            "data": data,
        }
        for name, data in maps.items()
    ]
    return [*objects, *generated]


def _build(folder: Path) -> tuple[list[Object], dict[str, dict[str, str]]]:
    table = yaml.safe_load((folder / "kustomization.yaml").read_text())
    steps: dict[str, Callable[[Any], None]] = {}
    objects: list[Object] = []
    maps: dict[str, dict[str, str]] = {}
    steps["resources"] = lambda names: _add_resources(folder, names, objects, maps)
    steps["configMapGenerator"] = lambda rows: _generate(folder, rows, maps)
    steps["patches"] = lambda rows: _patch(folder, rows, objects)
    steps["namespace"] = lambda name: _set_namespace(name, objects)
    steps["images"] = lambda rows: _set_images(rows, objects)
    unknown = set(table) - set(steps) - _HEAD
    if unknown:
        raise NotImplementedError(f"{folder}: {unknown}")
    for key, step in steps.items():
        if key in table:
            step(table[key])
    return objects, maps


def _add_resources(
    folder: Path, names: list[str], objects: list[Object], maps: dict[str, dict[str, str]]
) -> None:
    for name in names:
        path = folder / name
        if path.is_dir():
            below, below_maps = _build(path)
            objects += below
            maps.update(below_maps)
        else:
            objects += [found for found in yaml.safe_load_all(path.read_text()) if found]


def _generate(folder: Path, rows: list[Object], maps: dict[str, dict[str, str]]) -> None:
    for row in rows:
        unknown = set(row) - {"name", "files", "behavior"}
        if unknown or row.get("behavior", "create") not in ("create", "replace"):
            raise NotImplementedError(f"{folder}: {row}")
        replaces = row.get("behavior") == "replace"
        assert replaces == (row["name"] in maps), f"{folder}: {row['name']}"
        maps[row["name"]] = {name: (folder / name).read_text() for name in row["files"]}


def _patch(folder: Path, rows: list[Object], objects: list[Object]) -> None:
    for row in rows:
        if set(row) != {"path"}:
            raise NotImplementedError(f"{folder}: {row}")
        for patch in yaml.safe_load_all((folder / row["path"]).read_text()):
            (index,) = [i for i, found in enumerate(objects) if _same(found, patch)]
            objects[index] = merge(objects[index], patch)


def _same(one: Object, other: Object) -> bool:
    keys = ("apiVersion", "kind")
    same = all(one[key] == other[key] for key in keys)
    return same and bool(one["metadata"]["name"] == other["metadata"]["name"])


def merge(below: Object, patch: Object) -> Object:
    """A strategic merge: objects by key, known lists by their merge key, the rest replaced."""
    merged = copy.deepcopy(below)
    for key, value in patch.items():
        if key.startswith("$") or value is None:
            raise NotImplementedError(f"the patch directive {key}")
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        elif key in _MERGE_KEYS and key in merged:
            merged[key] = _merge_list(merged[key], value, _MERGE_KEYS[key])
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _merge_list(below: list[Object], patch: list[Object], key: str) -> list[Object]:
    rows = {row[key]: row for row in below}
    for row in patch:
        rows[row[key]] = merge(rows.get(row[key], {}), row)
    return list(rows.values())


def _set_namespace(name: str, objects: list[Object]) -> None:
    for found in objects:
        if found["kind"] not in _CLUSTER_WIDE:
            found["metadata"]["namespace"] = name


def _set_images(rows: list[Object], objects: list[Object]) -> None:
    for container in (c for found in objects for c in containers_of(found)):
        for row in rows:
            if container["image"].partition(":")[0] == row["name"]:
                container["image"] = f"{row.get('newName', row['name'])}:{row['newTag']}"


def containers_of(found: Object) -> list[Object]:
    """All containers of a workload; none of anything else."""
    pod = found.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def _suffixed(name: str, data: dict[str, str]) -> str:
    return f"{name}-{hashlib.sha256(repr(sorted(data.items())).encode()).hexdigest()[:10]}"


def _rename_config_maps(found: Object, names: dict[str, str]) -> None:
    for volume in found.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", []):
        if "configMap" in volume:
            volume["configMap"]["name"] = names[volume["configMap"]["name"]]
