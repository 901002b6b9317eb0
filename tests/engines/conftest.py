"""Tiny models: bodies loaded once a session, engines opened and closed by each test."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rewardd.engines.manifest import Manifest
from rewardd.engines.torch.checkpoint import Checkpoint, load_checkpoint
from rewardd.engines.torch.detect import detect
from rewardd.engines.torch.engine import TorchEngine
from rewardd.engines.torch.opening import open_torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def loaded(tiny: Callable[[str], Path]) -> Callable[[str], Checkpoint]:
    """A tiny model in fp32 by name; its weights are not to be changed."""
    known: dict[str, Checkpoint] = {}

    def checkpoint(name: str) -> Checkpoint:
        if name not in known:
            path = tiny(name)
            cpu = torch.device("cpu")
            known[name] = load_checkpoint(path, detect(path), dtype=torch.float32, device=cpu)
        return known[name]

    return checkpoint


Opened = Callable[..., AbstractAsyncContextManager[TorchEngine]]


@pytest.fixture
def opened(tiny: Callable[[str], Path]) -> Opened:
    """`async with opened(name) as engine`: a tiny model on an engine of its own."""

    @asynccontextmanager
    async def engine_of(
        name: str, manifest: Manifest | None = None, **options: Any
    ) -> AsyncIterator[TorchEngine]:
        path = tiny(name)
        engine = await open_torch(path, manifest or detect(path), device="cpu", **options)
        try:
            yield engine
        finally:
            await engine.aclose()

    return engine_of
