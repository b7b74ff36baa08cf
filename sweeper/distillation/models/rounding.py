"""Weights that autocast rounds at each use, stored rounded."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch


def store_for_autocast(model: Any, dtype: torch.dtype) -> None:
    """Keep the weights of a frozen model's linear layers in ``dtype``, in place.

    Autocast to ``dtype`` rounds them at each use, so outputs stay the same to the last bit. Shared
    weights (a tied head's) and layers of other types (quantised ones) stay as they are.
    """
    for _, layer in rounded_layers(model):
        layer.to(dtype)


def rounded_layers(model: Any) -> list[tuple[str, torch.nn.Linear]]:
    """Return the linear layers, with their paths, of which autocast reads rounded weights only."""
    uses = Counter(
        id(weights) for module in model.modules() for weights in module.parameters(recurse=False)
    )
    return [
        (path, module)
        for path, module in model.named_modules()
        if type(module) is torch.nn.Linear
        and all(
            weights.dtype == torch.float32 and uses[id(weights)] == 1
            for weights in module.parameters(recurse=False)
        )
    ]
