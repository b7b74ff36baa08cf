"""The files of a checkpoint: written whole or not at all, and checked before they are used.

Weights are read as safetensors, everything else as JSON or with ``weights_only=True``: reading a
checkpoint runs no code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from transformers.trainer_pt_utils import safe_globals

from sweeper.foundation.cache import file_hash
from sweeper.records import Progress, Record

MANIFEST = "checkpoint.json"
WEIGHTS = "weights.safetensors"
OPTIMISER, SCHEDULE = "optimizer.pt", "scheduler.pt"
STATE = "trainer_state.json"


class CheckpointManifest(Record):
    """``checkpoint.json``: the work that a checkpoint belongs to, its files, and the counts."""

    format: Literal[2] = 2
    work: str
    """Hash of everything that decides the training."""
    step: int
    max_steps: int
    seconds: float
    """Wall seconds of the steps so far."""
    totals: dict[str, float]
    """Counts of the meter, without those before the first step."""
    since: dict[str, float]
    """Counts of the meter since the last point of the curve."""
    losses_since: tuple[float, ...]
    """Sum of each process's losses since the last point of the curve."""
    loss_before: float
    """Sum of the losses before that point."""
    logged: int
    """Step of the last point of the curve."""
    curve: tuple[Progress, ...]
    files: dict[str, str]
    """SHA-256 of every other file, by name."""


class UnusableCheckpointError(Exception):
    """Reason why a training cannot resume from a checkpoint."""


@contextmanager
def written_whole(root: Path, step: int) -> Iterator[Path]:
    """Give a directory to write; it becomes ``root/<step>`` when the block has succeeded."""
    root.mkdir(exist_ok=True)
    unfinished = root / f".{step}"
    unfinished.mkdir()
    try:
        yield unfinished
        for path in (*unfinished.iterdir(), unfinished):
            _flush(path)
        os.replace(unfinished, root / str(step))
        _flush(root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def read_manifest(
    directory: Path, work: str, check_contents: Callable[[list[str]], None]
) -> CheckpointManifest:
    """Read a checkpoint's manifest, and check that it is whole and of this work.

    ``check_contents`` reads the files of the given names, and raises if they are broken.

    Raises:
        UnusableCheckpointError: The checkpoint is damaged, or belongs to other work.
    """
    try:
        text = (directory / MANIFEST).read_text(encoding="utf-8")
        manifest = CheckpointManifest.model_validate(json.loads(text))
        files = hashes(directory)
    except (OSError, ValueError, ValidationError) as error:
        raise UnusableCheckpointError(f"it cannot be read ({first_line(error)})") from error
    if manifest.work != work:
        raise UnusableCheckpointError(
            "it belongs to other settings, models, data, threads or versions"
        )
    if files != manifest.files:
        raise UnusableCheckpointError("it is damaged")
    try:
        check_contents(list(files))
    except Exception as error:  # readers raise whatever a broken file provokes
        raise UnusableCheckpointError(f"it cannot be read ({first_line(error)})") from error
    return manifest


def hashes(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the manifest, by name."""
    paths = sorted(path for path in directory.iterdir() if path.name != MANIFEST)
    return {path.name: file_hash(path) for path in paths}


def read_tensors(path: Path, *, mmap: bool = False) -> Any:
    """Read what ``torch.save`` wrote, without running code."""
    with safe_globals():
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _flush(path: Path) -> None:
    """Force what was written to a file, or to a directory, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
