"""The packed forward, broken on purpose: each mutant must be caught by the parity check.

They are applied after the engine has been loaded, since its own trial at load would see them and
fall back to the padded path.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from rewardd.engines.torch import attention, forward
from rewardd.engines.torch.plan import Plan, Segment

Patches = dict[tuple[Any, str], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A named fault, the architecture it shows on, and the functions it replaces."""

    name: str
    architecture: str
    patches: Callable[[], Patches]

    @contextmanager
    def applied(self) -> Iterator[None]:
        active = [patch.object(owner, name, new) for (owner, name), new in self.patches().items()]
        for one in active:
            one.start()
        try:
            yield
        finally:
            for one in active:
                one.stop()


def _cap_off() -> Patches:
    attend = attention._attend

    def uncapped(*args: Any) -> Any:
        *before, _, sinks = args
        return attend(*before, None, sinks)

    return {(attention, "_attend"): uncapped}


def _wider_window() -> Patches:
    mask = attention._mask

    def wider(plan: Plan, segment: Segment, window: int | None, device: torch.device) -> Any:
        return mask(plan, segment, None if window is None else window + 1, device)

    return {(attention, "_mask"): wider}


def _later_position() -> Patches:
    """Branches count their positions from one too far (a shift of everything would not show)."""
    build = forward.build_plan

    def later(sequences: Any) -> Plan:
        plan = build(sequences)
        for segment in plan.segments:
            if segment.parent is not None:
                plan.position_ids[segment.start : segment.start + segment.length] += 1
        return plan

    return {(forward, "build_plan"): later}


def _earlier_read() -> Patches:
    """The token before the last is scored."""
    rows = Plan.rows
    return {(Plan, "rows"): lambda plan, i, positions: rows(plan, i, positions - 1)}


def _visible_sibling() -> Patches:
    """A segment sees the branch next to it, too."""
    build, visible, mask = forward.build_plan, attention._visible, attention._mask
    sibling: dict[int, Segment] = {}

    def remember(sequences: Any) -> Plan:
        plan = build(sequences)
        sibling.clear()
        for one in plan.segments:
            for other in plan.segments:
                if other is not one and other.parent is one.parent and one.parent is not None:
                    sibling[one.start] = other
        return plan

    def see(segment: Segment, states: torch.Tensor) -> torch.Tensor:
        own = visible(segment, states)
        other = sibling.get(segment.start)
        if other is None:
            return own
        return torch.cat([states[:, :, other.start : other.start + other.length], own], dim=2)

    def unmask(plan: Plan, segment: Segment, window: int | None, device: torch.device) -> Any:
        own = mask(plan, segment, window, device)
        other = sibling.get(segment.start)
        if other is None or own is None:
            return own
        seen = torch.ones(own.shape[0], other.length, dtype=torch.bool, device=device)
        return torch.cat([seen, own], dim=1)

    return {
        (forward, "build_plan"): remember,
        (attention, "_visible"): see,
        (attention, "_mask"): unmask,
    }


MUTANTS = (
    Mutant("cap off", "gemma2", _cap_off),
    Mutant("window + 1", "mistral", _wider_window),
    Mutant("position + 1", "qwen3", _later_position),
    Mutant("read one earlier", "llama", _earlier_read),
    Mutant("sibling visible", "qwen3", _visible_sibling),
)
