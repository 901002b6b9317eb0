"""The tree plan: sequences become a trie over token ids, and each unique token is laid out once.

Pure (numpy only). Sequences are sorted, so that neighbours share the longest prefixes; each new
suffix is laid out contiguously. A *segment* is a run of tokens without a branch. Its tokens attend
to themselves causally and to every token of its ancestors; siblings never see each other. A
sequence is a path of segments, so that one that ends inside another's path is read at its own last
token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Segment:
    """`length` tokens at `start` of the layout; the first stands at `depth` in its sequences."""

    parent: "Segment | None"
    start: int
    depth: int
    length: int

    def path(self) -> list["Segment"]:
        """From the root to this segment."""
        path: list[Segment] = []
        node: Segment | None = self
        while node is not None:
            path.append(node)
            node = node.parent
        return path[::-1]


@dataclass(slots=True)
class Plan:
    """The layout of one forward.

    `token_ids` and `position_ids` have one entry a unique token; `leaves[i]` is the segment in
    which sequence i ends, `computed[i]` the number of tokens laid out for it.
    """

    token_ids: Ids
    position_ids: Ids
    segments: list[Segment]
    leaves: list[Segment]
    computed: list[int]
    calls: int = 0
    masks: dict[tuple[int, int], object] = field(default_factory=dict)

    def rows(self, sequence: int, positions: Ids) -> Ids:
        """Where the tokens at `positions` of a sequence stand in the layout."""
        path = self.leaves[sequence].path()
        depths = np.array([segment.depth for segment in path])
        starts = np.array([segment.start for segment in path])
        owner = np.searchsorted(depths, positions, side="right") - 1
        return np.asarray(starts[owner] + positions - depths[owner], dtype=np.int64)


class Tokens:
    """A token sequence that sorts lexicographically, as fast as bytes compare."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.ids: Ids = np.asarray(token_ids, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def key(self) -> bytes:
        return self.ids.astype(">u4").tobytes()


def shared_prefix(one: Ids, other: Ids) -> int:
    """Length of the longest common prefix."""
    short = min(len(one), len(other))
    different = np.flatnonzero(one[:short] != other[:short])
    return int(different[0]) if len(different) else short


def count_unique(sequences: Sequence[Tokens]) -> int:
    """Number of nodes of the trie over `sequences`."""
    ordered = sorted(sequences, key=lambda tokens: tokens.key)
    shared = sum(shared_prefix(a.ids, b.ids) for a, b in pairwise(ordered))
    return sum(map(len, sequences)) - shared


def fit(sequences: Sequence[Tokens], budget: int) -> int:
    """How many sequences, from the first on, stay within `budget` unique tokens; at least one."""
    if sum(map(len, sequences)) <= budget:
        return len(sequences)  # the usual case, without a sort
    low, high = 1, len(sequences)
    while low < high:
        middle = (low + high + 1) // 2
        if count_unique(sequences[:middle]) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def build_plan(sequences: Sequence[Tokens]) -> Plan:
    """Lay out the trie over `sequences` (none empty)."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].key)
    segments: list[Segment] = []
    leaves: list[Segment | None] = [None] * len(sequences)
    computed = [0] * len(sequences)
    pieces: list[tuple[Ids, int]] = []
    previous: Ids = np.empty(0, dtype=np.int64)
    leaf: Segment | None = None
    size = 0
    for index in order:
        ids = sequences[index].ids
        shared = shared_prefix(previous, ids)
        parent = _branch(leaf, shared, segments)
        if shared < len(ids):
            leaf = Segment(parent, size, shared, len(ids) - shared)
            segments.append(leaf)
            pieces.append((ids[shared:], shared))
            size += leaf.length
            computed[index] = leaf.length
        leaves[index], previous = leaf, ids
    return Plan(
        token_ids=np.concatenate([piece for piece, _ in pieces]),
        position_ids=np.concatenate(
            [np.arange(depth, depth + len(piece)) for piece, depth in pieces]
        ),
        segments=segments,
        leaves=[leaf for leaf in leaves if leaf is not None],
        computed=computed,
    )


def _branch(leaf: Segment | None, depth: int, segments: list[Segment]) -> Segment | None:
    """The segment that ends at `depth` on the path to `leaf`, split off if need be.

    The upper part becomes a new segment and the lower keeps its identity, so that leaves and
    children which point to it stay right.
    """
    while leaf is not None and leaf.depth >= depth:
        leaf = leaf.parent
    if leaf is None or leaf.depth + leaf.length == depth:
        return leaf
    upper = Segment(leaf.parent, leaf.start, leaf.depth, depth - leaf.depth)
    segments.append(upper)
    leaf.parent = upper
    leaf.start += upper.length
    leaf.depth += upper.length
    leaf.length -= upper.length
    return upper
