"""Linear layers under bfloat16 autocast on a CPU that has no instructions for bfloat16.

Such a CPU multiplies bfloat16 numbers several times slower than float32 ones. Here they are rounded
to bfloat16, multiplied in float32, and the sums are rounded to bfloat16: what autocast gives, but
for the order of its sums.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ``ONEDNN_MAX_CPU_ISA`` that keep torch's library of products from using them."""


def multiplies_slowly(device: str, dtype: torch.dtype | None) -> bool:
    """Return whether a device is a CPU without instructions for products of ``dtype``.

    Args:
        device: Kind of device, such as ``cpu``.
        dtype: Precision of autocast; None if it is off.
    """
    if device != "cpu" or dtype != torch.bfloat16:
        return False
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _WITHOUT_BFLOAT16:
        return True
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class WideProducts:
    """Products of a model's linear layers, in float32 where autocast would compute in bfloat16.

    Quantized layers and those of other types stay as they are.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] | None = None

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """Compute the model's products so within the block, wherever autocast is on."""
        layers = self.install(model)
        try:
            yield
        finally:
            for layer in layers:
                vars(layer).pop("forward", None)

    def install(self, model: nn.Module) -> list[nn.Linear]:
        """Compute the model's products so from now on, and return the layers that do."""
        layers = [
            module
            for module in model.modules()
            if type(module) is nn.Linear and "forward" not in vars(module)
        ]
        for layer in layers:
            # An attribute of this layer, in place of its class's method.
            vars(layer)["forward"] = partial(self._forward, layer)
        return layers

    @contextmanager
    def keeping_weights(self) -> Iterator[None]:
        """Round the weights once within the block, in which they must not change."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def _forward(self, layer: nn.Linear, states: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return nn.Linear.forward(layer, states)
        dtype = torch.get_autocast_dtype("cpu")
        if self._kept is None or torch.is_grad_enabled():
            product: Tensor = _Product.apply(states, layer.weight, layer.bias, dtype)  # type: ignore[no-untyped-call]
            return product
        if id(layer) not in self._kept:
            self._kept[id(layer)] = layer.weight.to(dtype).float()
        return _product(states.to(dtype), self._kept[id(layer)], layer.bias)


def _product(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a layer's outputs, rounded as ``states`` are.

    Args:
        states: Rounded states (… × width).
        weight: Rounded weight in float32 (outputs × width).
        bias: Bias (outputs), if there is one.
    """
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.to(states.dtype).float()
        return nn.functional.linear(states.float(), weight, bias).to(states.dtype)


class _Product(torch.autograd.Function):
    """The autograd function of ``_product``; it keeps the states rounded, as autocast does."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Return the outputs (… × outputs) in ``dtype``."""
        rounded = states.to(dtype)
        ctx.save_for_backward(rounded, weight, bias)
        ctx.dtype = states.dtype
        return _product(rounded, weight.to(dtype).float(), bias)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, rounded as those of autocast are."""
        states, weight, bias = ctx.saved_tensors
        dtype, grad = states.dtype, grad_output.float()
        rows = grad.flatten(0, -2)
        grad_states = grad_weight = grad_bias = None
        with torch.autocast("cpu", enabled=False):
            if ctx.needs_input_grad[0]:
                grad_states = (grad @ weight.to(dtype).float()).to(dtype).to(ctx.dtype)
            if ctx.needs_input_grad[1]:
                product = rows.t() @ states.flatten(0, -2).float()
                grad_weight = product.to(dtype).to(weight.dtype)
            if bias is not None and ctx.needs_input_grad[2]:
                grad_bias = rows.sum(0).to(dtype).to(bias.dtype)
        return grad_states, grad_weight, grad_bias, None
