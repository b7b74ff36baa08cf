"""Loading of a model's head alone, straight to its device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sweeper.config.models import ModelConfig
from sweeper.distillation.models import weight_parts
from sweeper.distillation.models.loading import location, read_config, without_weights
from sweeper.distillation.models.weight_files import check_files


def load_head(model: ModelConfig, device: str, dtype: torch.dtype) -> nn.Linear | None:
    """Load the head that ``load_model`` would give the model, in ``dtype``, without its body.

    Returns:
        None if the files do not show which weights are the head's: those of models with code of
        their own, with random weights or with quantized ones.

    Raises:
        BadInputError: The model's configuration or files cannot be read.
    """
    source = location(model.model)
    plain = set(model.init_kwargs) <= {"attn_implementation"}
    if model.random_init or model.trust_remote_code or not plain:
        return None
    config = read_config(model)
    if hasattr(config, "quantization_config"):
        return None
    check_files(Path(source), model)
    whole = model.model_copy(update={"keep_layers": None, "vocab_size": None})
    shell: Any = without_weights(whole, dtype, config)
    with weight_parts.opened(source, model.revision) as stored:
        parts = weight_parts.of_head(stored, shell)
    if not parts or _has_its_own_type(shell, dtype):
        return None
    rows = model.vocab_size or parts["weight"].shape[0]
    if rows > parts["weight"].shape[0]:
        return None
    # The rest of a cut tensor would stay in memory with it.
    moved = {
        name: values[:rows].to(device, dtype, copy=rows < len(values))
        for name, values in parts.items()
    }
    head = nn.Linear(moved["weight"].shape[1], rows, "bias" in moved, device="meta")
    for name, values in moved.items():
        setattr(head, name, nn.Parameter(values, requires_grad=False))
    return head


def _has_its_own_type(shell: Any, dtype: torch.dtype) -> bool:
    """Return whether the model keeps its head in another type than the rest."""
    head = shell.get_output_embeddings().weight
    names = [n for n, w in shell.named_parameters(remove_duplicate=False) if w is head]
    patterns = [pattern.replace("*", ".*") for pattern in shell._get_dtype_plan(dtype)]
    return any(re.search(pattern, name) for pattern in patterns for name in names)
