"""TF32 in a training: products of float32 matrices on tensor cores, with factors of 11 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

Precision = str
"""``ieee``, ``tf32``, or ``none`` for torch's defaults."""


@contextmanager
def products(*models: Any, device: str, tf32: bool) -> Iterator[None]:
    """Round the factors of float32 products to TF32 within the block, or keep them whole.

    Angles of rotary embeddings stay exact: transformers computes them as a product of positions and
    frequencies, and TF32 has no odd numbers above 2,048
    (https://github.com/huggingface/transformers/issues/48428). Only CUDA has TF32; other devices
    are left as they are.

    Args:
        models: Models that compute in the block.
        device: Torch device of the models.
        tf32: True for TF32.
    """
    if not device.startswith("cuda"):
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_float32_products("tf32" if tf32 else "ieee"))
        for module in _rotary(models) if tf32 else ():
            stack.enter_context(_exact(module))
        yield


@contextmanager
def _float32_products(precision: Precision) -> Iterator[None]:
    backends: Any = torch.backends
    before: Precision = backends.fp32_precision
    backends.fp32_precision = precision
    try:
        yield
    finally:
        backends.fp32_precision = before


def _rotary(models: tuple[Any, ...]) -> list[Any]:
    """Return the modules that compute rotary angles, each once."""
    modules = (module for model in models for module in model.modules())
    return list({id(m): m for m in modules if "Rotary" in type(m).__name__}.values())


@contextmanager
def _exact(module: Any) -> Iterator[None]:
    """Compute the products of a module in full float32 within the block."""
    backends: Any = torch.backends
    before: list[Precision] = []

    def enter(*_: Any) -> None:
        before.append(backends.fp32_precision)
        backends.fp32_precision = "ieee"

    def leave(*_: Any) -> None:
        backends.fp32_precision = before.pop()

    handles = (
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
