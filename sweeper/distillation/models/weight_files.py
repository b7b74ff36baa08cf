"""The files of a model's weights: none that may run code, and no weight that is not in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sweeper.config.models import ModelConfig
from sweeper.foundation.errors import BadInputError

_WEIGHTS = ".safetensors"


def check_files(directory: Path, model: ModelConfig) -> None:
    """Check for files that the library would unpickle in spite of ``use_safetensors``.

    The library unpickles tensors only; this check of a directory is a second defence.

    Raises:
        BadInputError: The model's directory has such files.
    """
    refused = []
    for index in directory.glob("*.safetensors.index.json"):
        with suppress(OSError, ValueError, AttributeError):
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            refused += sorted(str(name) for name in shards if not str(name).endswith(_WEIGHTS))
    adapter = directory / "adapter_model.safetensors"
    if (directory / "adapter_config.json").is_file() and not adapter.is_file():
        refused += ["adapter_model.bin"]
    if refused:
        raise BadInputError(
            f"Cannot load the weights of {model.model}: they must be safetensors files, because"
            f" others may run code; found {refused[0]}"
        )


def check_complete(read: Mapping[str, Any], model: ModelConfig) -> None:
    """Check what transformers tells of reading a model: it draws missing weights at random.

    Raises:
        BadInputError: Weights are missing, or have other sizes.
    """
    if missing := sorted(read["missing_keys"]):
        others = sorted(read["unexpected_keys"])
        instead = f", but others, for example {others[0]}" if others else ""
        raise BadInputError(
            f"expected all weights of {model.model} in its files, found none for"
            f" {len(missing):,} of them, for example {missing[0]}{instead}: it would begin with"
            " random ones; save the model again with save_pretrained"
        )
    if mismatched := sorted(read["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        raise BadInputError(
            f"expected weights of the sizes in the configuration of {model.model}, found"
            f" {_size(stored)} for {name}, which has {_size(wanted)}"
        )


def _size(shape: Any) -> str:
    return "×".join(map(str, shape))
