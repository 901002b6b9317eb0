"""The tree plan: each unique token laid out once, and each sequence found again in it."""

from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardd.engines.torch.plan import (
    Plan,
    Segment,
    Tokens,
    build_plan,
    count_unique,
    fit,
    shared_prefix,
)

TOKEN = st.integers(0, 3)  # a small alphabet makes prefixes meet
WORDS = st.lists(TOKEN, min_size=1, max_size=12)


@st.composite
def families(draw: st.DrawFn) -> list[list[int]]:
    """Sequences that share prefixes: fresh ones, extensions, prefixes and copies of others."""
    found = [draw(WORDS)]
    for _ in range(draw(st.integers(0, 9))):
        base = draw(st.sampled_from(found))
        cut = draw(st.integers(1, len(base)))
        kept = draw(st.sampled_from([[], base[:cut], base]))
        tail = draw(st.lists(TOKEN, min_size=0 if kept else 1, max_size=6))
        found.append([*kept, *tail])
    return found


def trie(sequences: Sequence[Sequence[int]]) -> set[tuple[int, ...]]:
    """The nodes of the trie: every prefix of every sequence."""
    return {tuple(ids[: n + 1]) for ids in sequences for n in range(len(ids))}


def tokens(sequences: Sequence[Sequence[int]]) -> list[Tokens]:
    return [Tokens(ids) for ids in sequences]


def planned(sequences: Sequence[Sequence[int]]) -> Plan:
    return build_plan(tokens(sequences))


def everywhere(ids: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(len(ids), dtype=np.int64)


@given(families())
def test_each_unique_token_is_laid_out_once(sequences: list[list[int]]) -> None:
    plan = planned(sequences)
    assert len(plan.token_ids) == len(plan.position_ids) == len(trie(sequences))
    assert count_unique(tokens(sequences)) == len(trie(sequences))


@given(families())
def test_rows_give_each_sequence_back(sequences: list[list[int]]) -> None:
    plan = planned(sequences)
    for index, ids in enumerate(sequences):
        rows = plan.rows(index, everywhere(ids))
        assert plan.token_ids[rows].tolist() == ids
        assert plan.position_ids[rows].tolist() == list(range(len(ids)))


@given(families(), st.data())
def test_rows_of_some_positions_in_any_order(
    sequences: list[list[int]], data: st.DataObject
) -> None:
    plan = planned(sequences)
    for index, ids in enumerate(sequences):
        wanted = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=5))
        rows = plan.rows(index, np.asarray(wanted, dtype=np.int64))
        assert plan.token_ids[rows].tolist() == [ids[position] for position in wanted]


@given(families())
def test_the_segments_tile_the_layout(sequences: list[list[int]]) -> None:
    plan = planned(sequences)
    spans = sorted((one.start, one.start + one.length) for one in plan.segments)
    assert all(one.length > 0 for one in plan.segments)
    assert list(chain.from_iterable(range(*span) for span in spans)) == list(
        range(len(plan.token_ids))
    )


@given(families())
def test_a_segment_follows_its_parent_and_sees_only_its_own_prefix(
    sequences: list[list[int]],
) -> None:
    """What attention sees of a path is a prefix of some sequence, token by token."""
    plan, nodes = planned(sequences), trie(sequences)
    for segment in plan.segments:
        path = segment.path()
        assert path[0].depth == 0
        for above, below in pairwise(path):
            assert below.depth == above.depth + above.length
        ids = chain.from_iterable(plan.token_ids[one.start :][: one.length] for one in path)
        assert tuple(int(token) for token in ids) in nodes


@given(families())
def test_a_leaf_ends_where_its_sequence_ends(sequences: list[list[int]]) -> None:
    plan = planned(sequences)
    assert [leaf.depth + leaf.length for leaf in plan.leaves] == [len(ids) for ids in sequences]


@given(families())
def test_what_was_computed_for_each_adds_up(sequences: list[list[int]]) -> None:
    plan = planned(sequences)
    assert sum(plan.computed) == len(plan.token_ids)
    for cost, ids in zip(plan.computed, sequences, strict=True):
        assert 0 <= cost <= len(ids)


@given(families(), st.integers(0, 60))
def test_fit_is_the_longest_start_within_the_budget(
    sequences: list[list[int]], budget: int
) -> None:
    sizes = [len(trie(sequences[: n + 1])) for n in range(len(sequences))]
    within = [n + 1 for n, size in enumerate(sizes) if size <= budget]
    assert fit(tokens(sequences), budget) == max(within, default=1)


@given(families(), st.integers(0, 60), st.integers(0, 20))
def test_fit_grows_with_the_budget(sequences: list[list[int]], budget: int, more: int) -> None:
    assert fit(tokens(sequences), budget) <= fit(tokens(sequences), budget + more)


def test_duplicates_cost_nothing_and_end_in_one_leaf() -> None:
    plan = planned([[5, 6, 7]] * 3)
    assert plan.computed == [3, 0, 0]
    assert len({id(leaf) for leaf in plan.leaves}) == 1


def test_a_prefix_is_read_at_its_own_last_token() -> None:
    plan = planned([[5, 6, 7], [5, 6], [5, 8]])
    last = [int(plan.rows(i, np.array([n]))[0]) for i, n in enumerate((2, 1, 1))]
    assert plan.token_ids[last].tolist() == [7, 6, 8]
    assert len(set(last)) == 3


def test_a_segment_split_later_keeps_its_children_and_leaves() -> None:
    """[1 2 3] is a leaf with a child before [1 2 9] splits it."""
    plan = planned([[1, 2, 3], [1, 2, 3, 4], [1, 2, 9]])
    assert sorted((one.depth, one.length) for one in plan.segments) == [
        (0, 2),
        (2, 1),
        (2, 1),
        (3, 1),
    ]
    child = plan.leaves[1]
    assert child.parent is plan.leaves[0]
    assert plan.leaves[0].parent is plan.leaves[2].parent


def test_large_ids_sort_by_value_not_by_bytes() -> None:
    sequences = [[255], [256], [65_536], [2**31 - 1], [256, 1]]
    plan = planned(sequences)
    assert len(plan.token_ids) == 5
    assert plan.token_ids[plan.rows(4, everywhere(sequences[4]))].tolist() == [256, 1]


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([], [], 0), ([1], [], 0), ([1, 2], [1, 2], 2), ([1, 2], [1, 3], 1)],
)
def test_shared_prefix(one: list[int], other: list[int], length: int) -> None:
    assert shared_prefix(np.array(one, dtype=np.int64), np.array(other, dtype=np.int64)) == length


def test_the_path_begins_at_the_root() -> None:
    root = Segment(None, 0, 0, 2)
    child = Segment(root, 2, 2, 1)
    assert child.path() == [root, child]
