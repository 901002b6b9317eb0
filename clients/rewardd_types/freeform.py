"""Bounds for the free-form fields, which a schema cannot express: depth and encoded size."""

from typing import Any

import msgspec

from rewardd_types.limits import MAX_EXTRA_BYTES, MAX_EXTRA_DEPTH


def check_freeform(name: str, value: Any) -> None:
    """Raise ValueError when `value` nests or weighs more than a free-form field may."""
    if value is None:
        return
    if _depth(value) > MAX_EXTRA_DEPTH:
        raise ValueError(f"`{name}` is nested more than {MAX_EXTRA_DEPTH} deep")
    if len(msgspec.json.encode(value)) > MAX_EXTRA_BYTES:
        raise ValueError(f"`{name}` is larger than {MAX_EXTRA_BYTES} bytes")


def _depth(value: Any) -> int:
    """Levels of nesting, counted level by level so that a bomb cannot exhaust the stack."""
    level, depth = [value], 0
    while level and depth <= MAX_EXTRA_DEPTH:
        level = [child for item in level for child in _children(item)]
        depth += 1
    return depth


def _children(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []
