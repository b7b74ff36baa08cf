"""A student's weights as its architecture names them: adapters merged, nothing of training in them.

The student stays as it is, to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import logging


def write_weights(model: Any, directory: Path, dtype: torch.dtype, *, untied: bool = False) -> None:
    """Write the student as transformers loads it: safetensors and a configuration.

    Args:
        model: Student, whole on one device; perhaps with an adapter.
        directory: New folder.
        dtype: Type to write floating-point weights in. An adapter is added in float32 before.
        untied: Write a head that is tied to the embeddings as one of its own, for vLLM on a CPU:
            it packs the head when it starts, and leaves a tied one as it was when weights change.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # students are written often
    try:
        weights = plain_weights(model, dtype)
        if untied:
            seen: set[int] = set()
            for name, value in weights.items():
                weights[name] = value.clone() if value.data_ptr() in seen else value
                seen.add(value.data_ptr())
        bare.save_pretrained(directory, state_dict=weights)
        if untied:
            _declare_untied(directory / "config.json")
    finally:
        if shown:
            logging.enable_progress_bar()


def _declare_untied(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            part["tie_word_embeddings"] = False
    path.write_text(json.dumps(config), encoding="utf-8")


def stored_weights(model: Any, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Return the weights on ``device`` by the names that they are stored by, each of them once.

    Those that are on it already, in ``dtype``, are the student's own.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    once: dict[int, tuple[str, Tensor]] = {}
    for name, weights in plain_weights(model, dtype, device).items():
        # Embeddings come before the head that is tied to them.
        once.setdefault(weights.data_ptr(), (name, weights))
    found: dict[str, Tensor] = revert_weight_conversion(bare, dict(once.values()))
    return found


@torch.no_grad()
def plain_weights(model: Any, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
    """Return the weights on ``device``, by the names that they have without an adapter.

    Weights that are one in the model are one here.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    merged = _merged(bare, dtype, device) if bare is not model else {}
    found: dict[str, Tensor] = {}
    seen: dict[tuple[int, torch.Size], Tensor] = {}
    for key, value in bare.state_dict(keep_vars=True).items():
        name = _plain_name(key)
        if name is None:
            continue
        place = (value.data_ptr(), value.shape)
        if key in merged:
            found[name] = merged[key]
        elif place in seen and value.numel():
            found[name] = seen[place]
        else:
            found[name] = seen[place] = _converted(value.detach(), dtype, device)
    return found


def _plain_name(key: str) -> str | None:
    """Return the name of a weight without an adapter; None if it is the adapter's."""
    parts = key.split(".")
    if any(part.startswith("lora_") or part == "original_module" for part in parts):
        return None
    if "modules_to_save" in parts:
        at = parts.index("modules_to_save")
        del parts[at : at + 2]  # and the adapter's name
    return ".".join(part for part in parts if part != "base_layer")


def _converted(value: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    return value.to(device, dtype if value.is_floating_point() else None).contiguous()


def _merged(bare: Any, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Return the weights that adapters change, by their keys, one layer merged at a time."""
    found = {}
    for path, layer in bare.named_modules():
        if hasattr(layer, "base_layer") and hasattr(layer, "adapter_layer_names"):
            with _merged_for_now(layer):
                for name, weights in layer.get_base_layer().named_parameters():
                    found[f"{path}.base_layer.{name}"] = _converted(weights.detach(), dtype, device)
    return found


@contextmanager
def _merged_for_now(layer: Any) -> Iterator[None]:
    """Add an adapter to the weights below it in float32, and put the very same ones back."""
    parameters = list(layer.get_base_layer().parameters())
    stored = [parameter.data for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.data = parameter.data.float().clone()
        layer.merge()
        yield
    finally:
        for parameter, data in zip(parameters, stored, strict=True):
            parameter.data = data
        layer.merged_adapters.clear()
