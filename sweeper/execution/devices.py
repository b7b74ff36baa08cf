"""What a machine has for its jobs, and how it is divided among them."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from itertools import takewhile
from pathlib import Path

from sweeper.config.compute import ComputeConfig
from sweeper.errors import SweeperError
from sweeper.records import Place


def per_device(gpu: float) -> int:
    """How many jobs share a device of which each takes ``gpu``."""
    # A third, written with a few digits, is meant for three.
    return max(1, math.floor(1 / gpu + 1e-6))


def count_workers(compute: ComputeConfig, devices: Sequence[str]) -> int:
    """How many jobs run at a time on a machine that has ``devices``.

    Raises:
        SweeperError: More are asked for than fit.
    """
    gpu, each = compute.resources_per_trial.gpu, compute.devices_per_trial
    if each > 1 and list(devices) != ["cpu"]:
        if (most := len(devices) // each) < (compute.workers or 1):
            key = "devices_per_trial" if most == 0 else "workers"
            found = each if most == 0 else compute.workers
            raise SweeperError(
                f"compute.{key}: expected at most {most or len(devices)}, found {found}: each trial"
                f" takes {each} devices, and this machine has {len(devices)}"
                f" ({', '.join(devices)})."
            )
        return compute.workers or (most if gpu else 1)
    if not gpu:
        return compute.workers or 1
    if list(devices) == ["cpu"]:
        raise SweeperError(
            f"compute.resources_per_trial.gpu: expected 0, because torch can use no GPU of this"
            f" machine, found {gpu:g}."
        )
    most = per_device(gpu) * len(devices)
    if compute.workers is not None and compute.workers > most:
        raise SweeperError(
            f"compute.workers: expected at most {most}, found {compute.workers}: each trial takes"
            f" {gpu:g} of a GPU (resources_per_trial), and this machine has {len(devices)}."
        )
    return compute.workers or most


def make_place(directory: Path, devices: Sequence[str], threads: int) -> Place:
    """Where a job runs: one process on each of ``devices``, and ``threads`` for all of them."""
    return Place(
        directory=str(directory),
        device=devices[0],
        devices=tuple(devices) if len(devices) > 1 else (),
        threads=max(1, threads // len(devices)),
    )


def divide_cores(
    workers: int, threads: int, available: Sequence[int]
) -> list[frozenset[int]] | None:
    """The cores of each worker, ``threads`` next to each other; None if there are too few."""
    if workers * threads > len(available):
        return None
    starts = range(0, workers * threads, threads)
    return [frozenset(available[start : start + threads]) for start in starts]


def allowed_cores() -> list[int]:
    """The cores that this process may use, where the system can say; else none."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def find_devices(wanted: str) -> list[str]:
    """The devices to give out in turn, found without loading torch in the coordinator.

    Raises:
        SweeperError: A GPU is wanted, and torch can use none.
    """
    if wanted.startswith("cuda"):
        found = _gpus()
        if not found or wanted not in ("cuda", *found):
            raise SweeperError(
                f"compute.device: expected a GPU, but of {wanted} there is none that torch can use"
                f" (found {', '.join(found) or 'no GPU'})."
            )
        return found if wanted == "cuda" else [wanted]
    if wanted != "auto":
        return [wanted]
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return ["mps"]
    return _gpus() or ["cpu"]


def _gpus() -> list[str]:
    """The GPUs that torch may use: those of the driver, within ``CUDA_VISIBLE_DEVICES``."""
    if metadata.version("torch").endswith("+cpu"):
        return []
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    count = sum(line.startswith("GPU ") for line in listed.splitlines())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA stops reading at the first name that is none, such as -1.
        named = takewhile(lambda name: name not in ("", "-1"), visible.split(","))
        count = min(count, len(list(named)))
    return [f"cuda:{index}" for index in range(count)]
