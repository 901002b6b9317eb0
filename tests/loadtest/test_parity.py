"""The parity measurement itself: all architectures right, all mutants caught."""

import json

import pytest

from loadtest.parity import ARCHITECTURES, FALLBACKS, run
from loadtest.tiny_models import DECODERS, ENCODERS


def test_parity(capsys: pytest.CaptureFixture[str]) -> None:
    figures = run(quiet=True, groups=3)
    assert figures["architectures"] == 12
    assert figures["packed"] == 10
    assert figures["max_abs_diff"] <= 1e-4
    assert figures["max_abs_diff_permuted"] <= 1e-4
    assert figures["mutants_caught"] == figures["mutants"] >= 4
    assert figures["fallbacks"] == 2

    *before, last = capsys.readouterr().out.splitlines()
    assert before == []
    assert json.loads(last) == {"name": "parity", "figures": figures}


def test_the_architectures_are_those_promised() -> None:
    assert set(ARCHITECTURES) == {*DECODERS, *ENCODERS, "qwen2_prm"}
    assert len(FALLBACKS) == 2
