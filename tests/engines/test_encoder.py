"""Encoders: padded batches equal one by one, equal inputs cost once."""

from collections.abc import Callable, Sequence

import pytest
import torch

from rewardd.engines.rendering import Rendered
from rewardd.engines.torch.checkpoint import Checkpoint
from rewardd.engines.torch.encoder import EncoderForward

Loaded = Callable[[str], Checkpoint]
ENCODERS = ("bert", "modernbert", "roberta", "deberta_v2")


def inputs(name: str, lengths: Sequence[int]) -> list[Rendered]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for length in lengths:
        ids = torch.randint(9, 265, (length,), generator=generator).tolist()
        types = [0] * (length // 2) + [1] * (length - length // 2)
        found.append(Rendered(ids, type_ids=types if name in ("bert", "deberta_v2") else None))
    return found


LENGTHS = (40, 3, 41, 17, 100)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("budget", [1, 120, 10_000])
def test_batches_equal_singles(loaded: Loaded, name: str, budget: int) -> None:
    asked = inputs(name, LENGTHS)
    values, computed = EncoderForward(loaded(name), budget)(asked)
    for one, rows in zip(asked, values, strict=True):
        ((alone,),) = EncoderForward(loaded(name), 1)([one])[0]
        assert rows == [pytest.approx(alone, abs=1e-4)]
    assert computed == list(LENGTHS)
    assert len({rows[0][0] for rows in values}) == len(LENGTHS)


def test_equal_inputs_cost_once(loaded: Loaded) -> None:
    asked = inputs("bert", (20, 30))
    values, computed = EncoderForward(loaded("bert"), 1000)([*asked, asked[0]])
    assert values[2] == values[0]
    assert computed == [20, 30, 0]


def test_equal_ids_in_other_segments_are_other_inputs(loaded: Loaded) -> None:
    (one,) = inputs("bert", (20,))
    other = Rendered(one.token_ids, type_ids=[0] * 20)
    values, computed = EncoderForward(loaded("bert"), 1000)([one, other])
    assert computed == [20, 20]
    assert abs(values[0][0][0] - values[1][0][0]) > 1e-3


def test_segments_are_kept_beside_an_input_without(loaded: Loaded) -> None:
    """The health check's input has none, and is the shortest, so the first, of its batch."""
    asked = [Rendered([1, 2, 3]), *inputs("bert", (20, 30))]
    values, _ = EncoderForward(loaded("bert"), 1000)(asked)
    for one, rows in zip(asked, values, strict=True):
        ((alone,),) = EncoderForward(loaded("bert"), 1000)([one])[0]
        assert rows == [pytest.approx(alone, abs=1e-4)]
