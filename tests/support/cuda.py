"""GPUs of the machine that the tests run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

COUNT = torch.cuda.device_count()
needs_gpu = pytest.mark.skipif(COUNT == 0, reason="torch can use no GPU here")
needs_two_gpus = pytest.mark.skipif(COUNT < 2, reason=f"needs two GPUs, and torch can use {COUNT}")


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show one GPU to trainers, which take all that they see: as many as a trial's process has."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    yield
