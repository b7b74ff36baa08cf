"""What a machine has for its jobs, and how it is divided among them."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Literal

from sweeper.config.compute import ComputeConfig
from sweeper.foundation.errors import SweeperError
from sweeper.records import Resources


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


def make_resources(directory: Path, devices: Sequence[str], threads: int) -> Resources:
    """Where a job runs: one process on each of ``devices``, and ``threads`` for all of them."""
    return Resources(
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


@dataclass(frozen=True)
class DeviceMemory:
    """The memory that a trial has on a kind of device.

    Attributes:
        name: The device, and who shares it.
        kind: Of the device.
        bytes: What the trial has of it.
        whole: All of it: a process that takes more cannot run here, whoever else does.
    """

    name: str
    kind: Literal["cpu", "cuda", "mps"]
    bytes: float
    whole: float


def rooms(compute: ComputeConfig) -> list[DeviceMemory]:
    """What each process of a trial has on this machine, by kind and size of its devices.

    Nothing is said of the nodes of a cluster, nor of a GPU whose driver does not answer.

    Raises:
        SweeperError: The machine does not have what ``compute`` asks for.
    """
    if compute.executor != "local":
        return []
    share = compute.resources_per_trial.gpu
    devices = find_devices("cpu" if share == 0 else compute.device)
    workers = count_workers(compute, devices)
    if not devices[0].startswith("cuda"):
        return [_main_memory(compute, devices[0], workers)]
    sizes = _gpu_memory()
    processes = workers * compute.devices_per_trial
    jobs = per_device(share) if share else math.ceil(processes / len(devices))
    part = share or 1 / jobs
    shared = f"a GPU of {{:.0f}} GiB{f' that {jobs} trials share' * (jobs > 1)}"
    found = {sizes[device] for device in devices if device in sizes}
    return [
        DeviceMemory(shared.format(size / 2**30), "cuda", size * part, size)
        for size in sorted(found)
    ]


def _main_memory(compute: ComputeConfig, device: str, workers: int) -> DeviceMemory:
    """The machine's memory, shared by its workers; or what a trial may take of it."""
    kind: Literal["cpu", "mps"] = "mps" if device == "mps" else "cpu"
    total = main_memory()
    each = compute.devices_per_trial
    limit = math.inf if compute.memory_limit is None else compute.memory_limit * 2**30 / each
    if limit < total / (workers * each):
        return DeviceMemory("compute.memory_limit", kind, limit, total)
    sharing = f"{workers} workers" if each == 1 else f"{workers * each} processes"
    shared = f", which {sharing} share" * (workers * each > 1)
    name = f"main memory ({total / 2**30:.0f} GiB{shared})"
    return DeviceMemory(name, kind, total / (workers * each), total)


def main_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The bytes of main memory that this machine has, or the container that is seen as one.

    Args:
        groups: Where Linux shows the limits of the container.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # The second is where version 1 of the control groups has it.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((groups / name).read_text(encoding="ascii"))
        except (OSError, ValueError):  # there is none: "max"
            continue
        if limit > 0:
            total = min(total, limit)
    return total


def _gpu_memory() -> dict[str, int]:
    """The bytes of each GPU that torch may use, by its name."""
    query = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")
    sizes = [int(line) * 2**20 for line in _ask_driver(*query) if line.strip().isdigit()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(len(sizes))]
    if visible is not None:
        names = list(takewhile(lambda name: name not in ("", "-1"), visible.split(",")))
    known = dict(zip(map(str, range(len(sizes))), sizes, strict=True))
    return {f"cuda:{at}": known[name] for at, name in enumerate(names) if name in known}


def _gpus() -> list[str]:
    """The GPUs that torch may use: those of the driver, within ``CUDA_VISIBLE_DEVICES``."""
    if metadata.version("torch").endswith("+cpu"):
        return []
    count = sum(line.startswith("GPU ") for line in _ask_driver("--list-gpus"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA stops reading at the first name that is none, such as -1.
        named = takewhile(lambda name: name not in ("", "-1"), visible.split(","))
        count = min(count, len(list(named)))
    return [f"cuda:{index}" for index in range(count)]


def _ask_driver(*arguments: str) -> list[str]:
    """The lines that NVIDIA's driver answers; none where there is none."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()
