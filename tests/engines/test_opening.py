"""Opening: an engine serves only what it has shown to be right."""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rewardd.core.calls import Input, Pool, PoolOutput, Prompt, Scope
from rewardd.engines.manifest import Manifest
from rewardd.engines.torch.check import check_model
from rewardd.engines.torch.detect import detect
from rewardd.engines.torch.engine import TorchEngine
from rewardd.engines.torch.opening import open_torch
from rewardd.errors import StartRefused

pytestmark = pytest.mark.anyio

Tiny = Callable[[str], Path]
Opened = Callable[..., AbstractAsyncContextManager[TorchEngine]]
CALL = Pool("reward", Input(Prompt(text="2 + 2")))


@pytest.fixture(scope="session")
def checked(tiny: Tiny) -> Callable[[str], Manifest]:
    """The manifest of a tiny model with its expected values."""
    known: dict[str, Manifest] = {}

    def manifest(name: str) -> Manifest:
        return known.setdefault(name, check_model(tiny(name)))

    return manifest


Checked = Callable[[str], Manifest]


def shifted(manifest: Manifest, by: float, probe: int = 0) -> Manifest:
    """One expected value of one probe changed."""
    one = manifest.probes[probe]
    (first, *others), *rows = one.values
    changed = msgspec.structs.replace(
        one, values=[[first + by * max(1, abs(first)), *others], *rows]
    )
    probes = [*manifest.probes[:probe], changed, *manifest.probes[probe + 1 :]]
    return msgspec.structs.replace(manifest, probes=probes)


def device_threads() -> int:
    return sum(thread.name.startswith("device") for thread in threading.enumerate())


async def refused(path: Path, manifest: Manifest, words: str, **options: Any) -> None:
    before = device_threads()
    with pytest.raises(StartRefused, match=words):
        await open_torch(path, manifest, device="cpu", **options)
    assert device_threads() == before


@pytest.mark.parametrize(
    "name", ["qwen3", "llama", "qwen2_prm", "qwen3_lm", "bert", "bloom", "peft_score"]
)
async def test_a_right_model_says_how_right(opened: Opened, checked: Checked, name: str) -> None:
    async with opened(name, checked(name)) as engine:
        assert engine.card.parity is not None
        assert engine.card.parity < 1e-4


@pytest.mark.parametrize("probe", [0, -2])
@pytest.mark.parametrize("by", [0.01, -0.01])
async def test_expected_values_that_are_off_refuse_the_start(
    tiny: Tiny, checked: Checked, probe: int, by: float
) -> None:
    manifest = checked("qwen3")
    off = shifted(manifest, by, probe % len(manifest.probes))
    await refused(tiny("qwen3"), off, r"misses the expected values .* by 0.0[01].*rewardd check")


@pytest.mark.parametrize("name", ["qwen2_prm", "qwen3_lm", "bert"])
async def test_for_every_kind_of_head(tiny: Tiny, checked: Checked, name: str) -> None:
    await refused(tiny(name), shifted(checked(name), 0.5), "misses the expected values")


async def test_with_warn_it_serves_and_says_so(
    opened: Opened, checked: Checked, caplog: pytest.LogCaptureFixture
) -> None:
    off = shifted(checked("qwen3"), 0.25)
    with caplog.at_level(logging.WARNING):
        async with opened("qwen3", off, probes="warn") as engine:
            assert engine.card.parity == pytest.approx(0.25, rel=0.3)
            (outcome,) = await engine.run([CALL], Scope())
            assert isinstance(outcome, PoolOutput)
    assert "misses the expected values" in caplog.text


async def test_without_probes_parity_is_unknown(opened: Opened) -> None:
    async with opened("qwen3") as engine:
        assert engine.card.parity is None


@pytest.mark.parametrize("change", ["fewer responses", "fewer values"])
async def test_probes_of_another_shape_are_refused(
    tiny: Tiny, checked: Checked, change: str
) -> None:
    manifest = checked("qwen3")
    probe, *others = manifest.probes
    values = probe.values[1:] if change == "fewer responses" else [[], *probe.values[1:]]
    probes = [msgspec.structs.replace(probe, values=values), *others]
    odd = msgspec.structs.replace(manifest, probes=probes)
    await refused(tiny("qwen3"), odd, "a probe of .* expects")


async def test_a_probe_that_fails_is_refused(tiny: Tiny, checked: Checked) -> None:
    short = msgspec.structs.replace(checked("qwen3"), max_length=20)
    await refused(tiny("qwen3"), short, "a probe of .* failed: .*input_too_long")


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "bert", "qwen3_lm"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_half_precision_is_within_its_tolerance(
    opened: Opened, checked: Checked, name: str, dtype: str
) -> None:
    async with opened(name, checked(name), dtype=dtype) as engine:
        assert engine.card.dtype == dtype
        assert engine.card.parity is not None
        assert 1e-6 < engine.card.parity < 5e-2


async def test_auto_is_fp32_on_a_cpu(opened: Opened) -> None:
    async with opened("qwen3") as engine:
        assert engine.card.dtype == "float32"


async def test_the_card_tells_what_a_receipt_needs(opened: Opened, tiny: Tiny) -> None:
    manifest = detect(tiny("llama"))
    async with opened("llama") as engine:
        card = engine.card
        assert (card.engine, card.packed, card.packed_reason) == ("torch", True, None)
        assert (card.revision, card.template_hash) == (manifest.revision, manifest.template_hash)
        assert (card.head, card.max_length) == (manifest.head, manifest.max_length)
        assert card.engine_version.startswith("torch 2.")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bloom", {}, "not on the list"),
        ("bert", {}, "encoder"),
        ("qwen3", {"packing": "off"}, "packing is off"),
    ],
)
async def test_what_is_not_packed_says_why(
    opened: Opened, name: str, options: dict[str, Any], words: str
) -> None:
    async with opened(name, **options) as engine:
        assert engine.card.packed is False
        assert words in (engine.card.packed_reason or "")
