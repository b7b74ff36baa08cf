"""TF32 on a GPU that has it: it rounds products in a training, and no position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import ModelConfig
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.models.precision import computing_in
from sweeper.distillation.models.tf32 import products
from sweeper.execution.devices import device_kinds
from tests.support.cuda import COUNT
from tests.support.tiny_models import make_tiny

needs_tf32 = pytest.mark.skipif(
    COUNT == 0 or torch.cuda.get_device_capability()[0] < 8, reason="the GPU has no TF32"
)
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def rounding() -> float:
    """Return the largest relative error of a product of float32 matrices."""
    left, right = (torch.randn(512, 512, device="cuda") for _ in range(2))
    exact = left.double() @ right.double()
    return float(((left @ right).double() - exact).abs().max() / exact.abs().max())


@needs_tf32
def test_tf32_rounds_products_and_no_positions(tmp_path: Path) -> None:
    model: Any = load_model(ModelConfig(model=make_tiny(tmp_path)), "cuda:0")
    [rotary] = [m for m in model.modules() if "Rotary" in type(m).__name__]
    states = torch.zeros(2, 8, 16, device="cuda")
    positions = torch.arange(4093, 4101, device="cuda").expand(2, 8)
    exact = rotary(states, positions)
    assert rounding() < 1e-6
    with products(model, device="cuda:0", tf32=True):
        assert 1e-5 < rounding() < 1e-2
        assert all(map(torch.equal, rotary(states, positions), exact))
        with computing_in(model, "float32"):
            assert rounding() < 1e-6
    with products(model, device="cuda:0", tf32=False):
        assert rounding() < 1e-6


def test_the_capability_that_the_driver_reports_is_torchs() -> None:
    [kind, *_] = device_kinds(["cuda:0"])
    if kind.capability is None:
        pytest.skip("nvidia-smi does not report it")
    assert kind.capability == float("{}.{}".format(*torch.cuda.get_device_capability(0)))
