"""Whether a model can be loaded as a trial will load it, found without its weights."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_OFFLINE
from transformers import GenerationConfig

from sweeper.config.models import ModelConfig
from sweeper.distillation.models import layer_dropping
from sweeper.distillation.models.loading import (
    location,
    read_config,
    read_weights,
    without_weights,
)
from sweeper.foundation.errors import BadInputError

_NO_SETTING = re.compile(
    r"_.*|.*token_id|max_length|output_.*|return_.*|use_cache|transformers_version"
)
"""Keys of a generation configuration that decide no token."""
_SUPPORTED = {
    "sdpa": "_supports_sdpa",
    "flex": "_supports_flex_attn",
    "flash": "_supports_flash_attn",
}
"""Attribute of a model's class that tells whether it has a kind of attention."""
_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")


def check_loadable(model: ModelConfig, *, elsewhere: bool = False) -> str | None:
    """Load a model, but of its files only the names and sizes of weights.

    Files that would have to be fetched are left for later, and so are those of weights that are
    stored quantized. Devices are not looked for if trials load the model ``elsewhere``.

    Returns:
        A note on weights that the model has no place for; None if there are none.

    Raises:
        BadInputError: The files are not there, cannot be read, or lack weights; or the model has no
            such layers, devices or revisions.
    """
    config = read_config(model)
    local = Path(location(model.model)).is_dir()
    if local and model.revision is not None:
        raise BadInputError(
            f"expected no revision, because {model.model} is a folder, which has one only; found"
            f" {model.revision!r}"
        )
    if not elsewhere:
        check_devices(model.init_kwargs.get("device_map"))
    if model.keep_layers is not None:
        made = without_weights(model.model_copy(update={"keep_layers": None}))
        layer_dropping.keep_layers(made, layer_dropping.chosen(model.keep_layers, config))
    if model.random_init or hasattr(config, "quantization_config"):
        return None
    options: dict[str, Any] = {"dtype": "auto", **model.init_kwargs, "device_map": {"": "meta"}}
    for name in ("max_memory", "offload_folder", "quantization_config"):
        options.pop(name, None)
    try:
        _, unused = read_weights(
            model, **options, local_files_only=True, ignore_mismatched_sizes=True
        )
    except BadInputError:
        if local or HF_HUB_OFFLINE:
            raise
        return None
    except Exception:  # from the model's own code, which may need values
        traceback.print_exc()
        return None
    if not unused:
        return None
    return (
        f"{model.model} has no place for {len(unused):,} of the weights in its files, for example"
        f" {unused[0]}, which are left out"
    )


def published_settings(model: ModelConfig) -> str | None:
    """Return the generation settings that a model's publisher gives it, in words; None without any.

    Neither scores nor rollouts follow them: suites and arms say how a student answers.
    """
    try:
        found = GenerationConfig.from_pretrained(
            location(model.model), revision=model.revision, local_files_only=True
        )
    except (OSError, ValueError):  # there is none, or it has to be fetched
        return None
    settings = {
        name: value
        for name, value in found.to_diff_dict().items()
        if not _NO_SETTING.fullmatch(name) and value is not False
    }
    return ", ".join(f"{name} {value}" for name, value in sorted(settings.items())) or None


def default_attention(model: ModelConfig) -> str | None:
    """Return a model's default attention, after a check that it has the one asked for.

    None if that is not known, because the model's own code needs its weights.

    Raises:
        BadInputError: It does not have the one asked for.
    """
    name = str(model.init_kwargs.get("attn_implementation"))
    usual: dict[str, Any] = {"init_kwargs": {}, "keep_layers": None, "vocab_size": None}
    try:
        made = without_weights(model.model_copy(update=usual))
    except BadInputError:
        raise
    except Exception:  # from the model's own code
        traceback.print_exc()
        return None
    default = str(made.config._attn_implementation)
    kind = next((kind for kind in _SUPPORTED if kind in name), None)
    if kind is not None and not getattr(made, _SUPPORTED[kind]):
        raise BadInputError(
            f"{model.model} ({made.config.model_type}) has no {name} in transformers; leave the key"
            f" out for its default, {default}"
        )
    return default


def check_devices(device_map: Any) -> None:
    """Check that the devices of a ``device_map`` are there.

    Raises:
        BadInputError: One is not.
    """
    names = device_map.values() if isinstance(device_map, dict) else [device_map]
    for name in names:
        if name in (None, "disk", "meta") or (name is device_map and name in _SPREAD):
            continue
        try:
            device = torch.device(name)
            if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
                raise RuntimeError
            torch.empty(0, device=device)
        except (RuntimeError, TypeError, AssertionError) as error:
            there = torch.cuda.device_count()
            gpus = f"cuda:0 to cuda:{there - 1}" if there else "no CUDA device"
            raise BadInputError(
                f"expected devices of this machine in init_kwargs.device_map (cpu, {gpus}), found"
                f" {name!r}"
            ) from error
