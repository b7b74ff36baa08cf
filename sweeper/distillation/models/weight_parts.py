"""Parts of a model's stored weights: some of its layers, or its head alone, without the rest.

Each weight is read when it is asked for, straight from its file to the device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

Stored = Mapping[str, Any]
"""Weights by their names in the files; ``weights[name][...]`` reads one."""


@contextmanager
def opened(source: str, revision: str | None) -> Iterator[Stored]:
    """Open the weights of a model's folder, or of a model of the hub, in the block.

    They are empty where only the library finds them: an adapter's, or those of other formats.
    """
    with ExitStack() as files:
        stored: dict[str, Any] = {}
        for path in _files(source, revision):
            file = files.enter_context(safe_open(path, framework="pt"))
            stored |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        yield stored


def _files(source: str, revision: str | None) -> Sequence[str]:
    """Return the files that the library would read; none if it would look elsewhere."""
    options: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    if (Path(source) / "adapter_config.json").is_file():
        return []
    if whole := cached_file(source, "model.safetensors", **options):
        return [str(whole)]
    if index := cached_file(source, "model.safetensors.index.json", **options):
        shards, _ = get_checkpoint_shard_files(source, index, revision=revision)
        return [str(shard) for shard in shards]
    return []


def of_layers(stored: Stored, path: str, total: int, kept: Sequence[int]) -> Stored:
    """Return the weights of the layers ``kept`` and of what is around layers, renumbered.

    Args:
        stored: The model's weights.
        path: Path of the list of layers in the model: ``model.layers``.
        total: Number of the model's layers.
        kept: Those to keep, in ascending order.

    Returns:
        Nothing if the files have the layers under other names than the model.
    """
    name = re.escape(path.rpartition(".")[2])
    pattern = re.compile(rf"((?:.*?\.)?{name}\.)(\d+)(\..+)")
    found = {key: pattern.fullmatch(key) for key in stored}
    layers = {(match[1], int(match[2])) for match in found.values() if match}
    lists = {prefix for prefix, _ in layers}
    # Files may leave out the model's own prefix, and have a list of a tower of another kind.
    if len(lists) != 1 or {number for _, number in layers} != set(range(total)):
        return {}
    renumbered = {old: new for new, old in enumerate(kept)}
    parts = {}
    for key, match in found.items():
        if match is None:
            parts[key] = stored[key]
        elif (new := renumbered.get(int(match[2]))) is not None:
            parts[f"{match[1]}{new}{match[3]}"] = stored[key]
    return parts


def of_head(stored: Stored, shell: Any) -> dict[str, Tensor]:
    """Read the weights of a model's head, as they are stored.

    Args:
        stored: The model's weights.
        shell: The model without values; its head may be tied to its embeddings.

    Returns:
        ``weight``, and ``bias`` if there is one; nothing if the head is not a plain linear layer,
        or the files have it under other names, or in another shape.
    """
    head = shell.get_output_embeddings()
    if type(head) is not nn.Linear:
        return {}
    names: dict[int, list[str]] = {id(weights): [] for weights in head.parameters()}
    for name, weights in shell.named_parameters(remove_duplicate=False):
        if id(weights) in names:
            names[id(weights)].append(name)
    found = {}
    for kind, weights in head.named_parameters():
        # The library may put the model's own prefix before names that lack it.
        prefix = f"{shell.base_model_prefix}."
        ways = [way for name in names[id(weights)] for way in (name, name.removeprefix(prefix))]
        # Of a tied head's names, the library prefers its own: files may have another one there.
        way = next((way for way in sorted(ways, key=_is_head) if way in stored), None)
        if way is None or tuple(stored[way].get_shape()) != tuple(weights.shape):
            return {}
        found[kind] = stored[way][...]
    return found


def _is_head(name: str) -> bool:
    return "embed" not in name and "wte" not in name
