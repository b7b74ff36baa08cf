"""One precision for everything that is measured of a model, whatever it is trained in.

A model that is measured in bfloat16 is the one that ``from_pretrained(…, dtype="bfloat16")`` loads:
its weights are rounded, and so is what it computes. Autocast rounds otherwise, and rounds nothing
where weights are in 16 bits already.
"""

from __future__ import annotations

import copy
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sweeper.config.base import ScoringDtype
from sweeper.distillation.models.adapters import adapter_weights
from sweeper.distillation.models.loading import without_adapter

_PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@contextmanager
def computing_in(model: Any, dtype: ScoringDtype | None) -> Iterator[None]:
    """Compute with ``model`` in ``dtype`` within the block, then leave it as it was, to the bit.

    Copies of weights in another type take their place; optimisers and wrappers keep the weights
    themselves. Quantized weights stay as they are, and what is computed with them is in ``dtype``.
    A low-rank adapter stays in float32, as PEFT loads one. The autocast that accelerate leaves
    around ``forward``, and TF32, are off. None changes nothing.
    """
    if dtype is None:
        yield
        return
    undo: list[Callable[[], None]] = []
    backends: Any = torch.backends
    products = backends.fp32_precision
    try:
        backends.fp32_precision = "ieee"
        for module in model.modules():
            if "_original_forward" in vars(module):
                undo.append(_attribute(module, "forward", module._original_forward))
        _cast(model, getattr(torch, dtype), undo)
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            yield
    finally:
        backends.fp32_precision = products
        for restore in reversed(undo):
            restore()


def _cast(model: Any, dtype: torch.dtype, undo: list[Callable[[], None]]) -> None:
    """Put copies in ``dtype`` where weights and saved buffers have another type."""
    base = without_adapter(model)
    adapters = {id(weights) for weights in adapter_weights(base)}
    # Names of weights that their architecture keeps in float32.
    kept = re.compile("|".join(base._get_dtype_plan(dtype)).replace("*", ".*") or r"(?!)")
    copies: dict[int, Tensor] = {}
    # A model that was loaded in this type has them.
    made = {} if base.dtype == dtype else _made_buffers(base, dtype)
    for path, module in base.named_modules():
        packed = getattr(base, "is_quantized", False) and _is_packed(module)
        if packed and hasattr(module, "compute_dtype"):
            undo.append(_attribute(module, "compute_dtype", dtype))
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if name in module._non_persistent_buffers_set:
                    fresh = made.get(f"{path}.{name}", tensor)
                    if fresh.dtype != tensor.dtype:
                        undo.append(_item(tensors, name, fresh.to(tensor.device)))
                    continue
                if tensor.dtype not in _PLAIN or (packed and name != "bias"):
                    continue
                exact = id(tensor) in adapters or kept.search(f"{path}.{name}")
                wanted = torch.float32 if exact else dtype
                if tensor.dtype == wanted:
                    continue
                if id(tensor) not in copies:
                    copy = tensor.detach().to(wanted)
                    is_weight = tensors is module._parameters
                    copies[id(tensor)] = nn.Parameter(copy, False) if is_weight else copy
                undo.append(_item(tensors, name, copies[id(tensor)]))


def _made_buffers(base: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the buffers that a model makes itself, not from files, when it is loaded in ``dtype``.

    Nothing if that cannot be found without its weights, as with some models' own code.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            made = type(base)._from_config(copy.deepcopy(base.config), dtype=dtype)
        own = [(m, n) for m in made.modules() for n in m._non_persistent_buffers_set]
        for module, name in own:
            if module._buffers[name] is not None:
                module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        with torch.random.fork_rng(devices=[]):
            made.initialize_weights()
    except Exception:  # from the model's own code
        traceback.print_exc()
        return {}
    return dict(made.named_non_persistent_buffers())


def _is_packed(module: nn.Module) -> bool:
    """Return whether a module of a quantized model has weights that are no plain numbers."""
    tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return any(
        type(tensor) not in (nn.Parameter, Tensor) or tensor.dtype not in (*_PLAIN, torch.bool)
        for tensor in tensors
    )


def _item(place: dict[str, Any], name: str, value: Any) -> Callable[[], None]:
    """Put ``value`` in ``place``, and return what puts back the value before."""
    before, place[name] = place[name], value
    return lambda: place.update({name: before})


def _attribute(module: nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute that a module has itself, and return what sets it back."""
    return _item(vars(module), name, value)
