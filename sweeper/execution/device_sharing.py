"""How the jobs of a study share a machine: its devices, its cores and its memory."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sweeper.config.compute import ComputeConfig
from sweeper.execution.devices import find_devices, gpu_memory, main_memory
from sweeper.foundation.environment import available_cores
from sweeper.foundation.errors import SweeperError
from sweeper.records import Resources


def per_device(gpu: float) -> int:
    """Return how many jobs share a device of which each takes ``gpu``."""
    # A third, written with a few digits, is meant for three.
    return max(1, math.floor(1 / gpu + 1e-6))


def count_workers(compute: ComputeConfig, devices: Sequence[str]) -> int:
    """Return how many jobs run at a time on a machine that has ``devices``.

    By default one on each GPU, or on each group of GPUs that trials train on together; elsewhere
    one.

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
        return compute.workers or most
    if not gpu:
        return compute.workers or (len(devices) if _are_gpus(devices) else 1)
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


def jobs_on_a_gpu(compute: ComputeConfig, devices: Sequence[str]) -> int:
    """Return the most jobs that run on a GPU at a time; 1 on other devices.

    Raises:
        SweeperError: More workers are asked for than fit.
    """
    if not _are_gpus(devices) or compute.devices_per_trial > 1:
        return 1
    return math.ceil(count_workers(compute, devices) / len(devices))


def _are_gpus(devices: Sequence[str]) -> bool:
    return all(device.startswith("cuda") for device in devices)


def make_resources(directory: Path, devices: Sequence[str], threads: int) -> Resources:
    """Return a job's place: one process on each of ``devices``, ``threads`` for all of them."""
    return Resources(
        directory=str(directory),
        device=devices[0],
        devices=tuple(devices) if len(devices) > 1 else (),
        threads=max(1, threads // len(devices)),
    )


def divide_cores(
    workers: int, threads: int, available: Sequence[int]
) -> list[frozenset[int]] | None:
    """Return the cores of each worker, ``threads`` in a row; None if there are too few."""
    if workers * threads > len(available):
        return None
    starts = range(0, workers * threads, threads)
    return [frozenset(available[start : start + threads]) for start in starts]


def allowed_cores() -> list[int]:
    """Return the cores that this process may use, where the system reports them; else none."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@dataclass(frozen=True)
class DeviceSlots:
    """The places for jobs on one machine: each has devices, threads and perhaps cores of its own.

    Attributes:
        devices: The devices that are given out in turn.
        each: Number of devices that a job takes.
        gpu: The share of a device's memory that a job may take: the same in every slot, so that no
            trial fails in one that has room in another.
        workers: The number of slots, which is that of jobs at a time.
        threads: CPU threads of a job.
        cores: The cores of each slot; None: any.
    """

    devices: tuple[str, ...]
    each: int
    gpu: float
    workers: int
    threads: int
    cores: tuple[frozenset[int], ...] | None

    @classmethod
    def of(cls, compute: ComputeConfig, devices: Sequence[str] | None = None) -> DeviceSlots:
        """Divide this machine.

        Args:
            compute: Resources that the study asks for.
            devices: The devices to give out, in place of those that are found.

        Raises:
            SweeperError: The machine does not have what ``compute`` asks for.
        """
        share = compute.resources_per_trial
        if devices is None:
            devices = usable_devices(compute)
        workers = count_workers(compute, devices)
        threads = compute.threads_per_worker or share.cpu or max(1, available_cores() // workers)
        cores = divide_cores(workers, threads, allowed_cores() if compute.pin_cores else [])
        return cls(
            devices=tuple(devices),
            each=compute.devices_per_trial,
            gpu=share.gpu or 1 / jobs_on_a_gpu(compute, devices),
            workers=workers,
            threads=threads,
            cores=None if cores is None else tuple(cores),
        )

    def first_free(self, taken: Collection[int]) -> int:
        """Return the first slot that is not ``taken``; one past the last if all are."""
        return next(slot for slot in range(self.workers + 1) if slot not in taken)

    def used(self) -> tuple[str, ...]:
        """Return the first device of each slot, each once."""
        return tuple(
            dict.fromkeys(self.resources(slot, Path()).device for slot in range(self.workers))
        )

    def resources(self, slot: int, directory: Path) -> Resources:
        """Return what a job in ``slot`` gets that works in ``directory``."""
        first = slot * self.each
        own = [self.devices[at % len(self.devices)] for at in range(first, first + self.each)]
        place = make_resources(directory, own, self.threads)
        if self.each > 1 or not _are_gpus(self.devices):
            return place
        on_it = range(slot % len(self.devices), self.workers, len(self.devices))
        return place.model_copy(update={"sharing": max(1, len(on_it))})


def usable_devices(compute: ComputeConfig) -> list[str]:
    """Return the devices of this machine that trials may use.

    Raises:
        SweeperError: A GPU is wanted, and torch can use none.
    """
    return find_devices("cpu" if compute.resources_per_trial.gpu == 0 else compute.device)


@dataclass(frozen=True)
class DeviceMemory:
    """Memory that a trial has on a kind of device.

    Attributes:
        name: Name of the device, and who shares it.
        kind: Kind of the device.
        bytes: Bytes that the trial has of it.
        whole: Bytes of all of it: a process that takes more cannot run here.
        part: Share that the trial has of what there is for trials.
        served: Bytes of served models next to trials, in none of the others.
    """

    name: str
    kind: Literal["cpu", "cuda", "mps"]
    bytes: float
    whole: float
    part: float = 1.0
    served: float = 0.0

    def beside(self, servers: Mapping[str, float]) -> DeviceMemory:
        """Return what is left next to servers, given by name with the bytes that they take."""
        if not servers:
            return self
        served = sum(servers.values())
        named = " and ".join(f"{name} ({size / 2**30:.1f} GiB)" for name, size in servers.items())
        whole = max(0.0, self.whole - served)
        return DeviceMemory(
            f"{self.name}, next to {named}",
            self.kind,
            min(self.bytes, whole * self.part),
            whole,
            self.part,
            served,
        )


def trial_memory(
    compute: ComputeConfig, devices: Sequence[str] | None = None
) -> list[DeviceMemory]:
    """Return what each process of a trial has here, by kind and size of its devices.

    Nothing is said of the nodes of a cluster, nor of a GPU whose driver does not answer.

    Args:
        compute: Resources that the study asks for.
        devices: Devices of trials, in place of those that are found.

    Raises:
        SweeperError: The machine does not have what ``compute`` asks for.
    """
    if compute.executor != "local":
        return []
    share = compute.resources_per_trial.gpu
    devices = usable_devices(compute) if devices is None else devices
    workers = count_workers(compute, devices)
    if not devices[0].startswith("cuda"):
        return [_main_memory(compute, devices[0], workers)]
    sizes = gpu_memory()
    jobs = per_device(share) if share else jobs_on_a_gpu(compute, devices)
    part = share or 1 / jobs
    shared = f"a GPU of {{:.0f}} GiB{f' that {jobs} trials share' * (jobs > 1)}"
    found = {sizes[device] for device in devices if device in sizes}
    return [
        DeviceMemory(shared.format(size / 2**30), "cuda", size * part, size, part)
        for size in sorted(found)
    ]


def _main_memory(compute: ComputeConfig, device: str, workers: int) -> DeviceMemory:
    """Return the machine's memory, shared by its workers; or what a trial may take of it."""
    kind: Literal["cpu", "mps"] = "mps" if device == "mps" else "cpu"
    total = main_memory()
    each = compute.devices_per_trial
    limit = math.inf if compute.memory_limit is None else compute.memory_limit * 2**30 / each
    part = 1 / (workers * each)
    if limit < total * part:
        return DeviceMemory("compute.memory_limit", kind, limit, total, part)
    sharing = f"{workers} workers" if each == 1 else f"{workers * each} processes"
    shared = f", which {sharing} share" * (workers * each > 1)
    name = f"main memory ({total / 2**30:.0f} GiB{shared})"
    return DeviceMemory(name, kind, total * part, total, part)
