"""TF32 rounds products in training, and never the angles of rotary embeddings.

A CPU has no TF32: what is shown here is which precision torch is told, and when.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import ModelConfig
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.models.precision import computing_in
from sweeper.distillation.models.tf32 import products
from tests.support.tiny_models import ARCHITECTURES, make_tiny

TOKENS = torch.arange(3, 35).view(2, 16)
backends: Any = torch.backends


def precisions(model: Any) -> dict[str, set[str]]:
    """Run a forward pass; return the precisions of the modules that compute, by their kind."""
    seen: dict[str, set[str]] = {}

    def note(module: Any, *_: Any) -> None:
        kind = "rotary" if "Rotary" in type(module).__name__ else "linear"
        seen.setdefault(kind, set()).add(backends.fp32_precision)

    handles = [
        module.register_forward_hook(note, prepend=True)
        for module in model.modules()
        if "Rotary" in type(module).__name__ or isinstance(module, torch.nn.Linear)
    ]
    with torch.no_grad():
        model(TOKENS)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_are_rounded_but_for_rotary_angles(tmp_path: Path, architecture: str) -> None:
    model: Any = load_model(ModelConfig(model=make_tiny(tmp_path, architecture)), "cpu")
    angles = {} if architecture == "gpt2" else {"rotary": {"ieee"}}
    with products(model, device="cuda:0", tf32=True):
        assert precisions(model) == {**angles, "linear": {"tf32"}}
        with computing_in(model, "float32"):  # an intermediate score
            assert precisions(model) == {**angles, "linear": {"ieee"}}
        assert precisions(model) == {**angles, "linear": {"tf32"}}
    assert set().union(*precisions(model).values()) == {"none"}


@pytest.mark.parametrize(
    ("device", "tf32", "inside"),
    [("cuda:0", True, "tf32"), ("cuda:0", False, "ieee"), ("cpu", True, "none")],
)
def test_the_precision_is_that_of_the_key_within_a_training(
    device: str, tf32: bool, inside: str
) -> None:
    with pytest.raises(RuntimeError, match="wrong"), products(device=device, tf32=tf32):
        assert backends.fp32_precision == inside
        # Convolutions of hybrid models are products, too.
        assert backends.cudnn.conv.fp32_precision == {"ieee": "ieee"}.get(inside, "tf32")
        raise RuntimeError("wrong")
    assert backends.fp32_precision == "none"


def test_an_error_within_rotary_embeddings_leaves_no_precision_behind(tmp_path: Path) -> None:
    model: Any = load_model(ModelConfig(model=make_tiny(tmp_path)), "cpu")
    [rotary] = [m for m in model.modules() if "Rotary" in type(m).__name__]
    with products(model, device="cuda:0", tf32=True):
        with pytest.raises((RuntimeError, AttributeError, TypeError)):
            rotary(None, None)
        assert backends.fp32_precision == "tf32"
