"""The processes that train one student together, one on each device.

Each trains on its part of every step's sequences. ``DistributedDataParallel`` adds up the gradients
of its copy of the student, or ``sharding`` those of its part. Counts and decisions that concern all
of them are exchanged here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate.state import AcceleratorState
from accelerate.utils import check_cuda_p2p_ib_support

from sweeper.records import Resources
from sweeper.records.layout import JobPaths

Value = TypeVar("Value")

_TIMEOUT = timedelta(days=365)
"""Longest wait of a process for another, which may score or wait for the coordinator meanwhile. A
process that fails ends the trial, so no other waits for it."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together, as one of them sees the group.

    All of them must call the same methods in the same order.
    """

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""

    @property
    def first(self) -> bool:
        """True in the process that reports."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """Return every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def of_first(self, value: Value) -> Value:
        """Return the first process's value in all of them."""
        return self.gather(value)[0]

    def add_up(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Return the sums of the counts over all processes, by name."""
        gathered = self.gather(counts)
        return {name: sum(each[name] for each in gathered) for name in counts}


ALONE = ProcessGroup()


def allow_old_drivers(device: str) -> None:
    """Let this process train on GPUs of the RTX 40 series with a driver older than 550.40.

    With such a driver they do not reach each other's memory. Accelerate refuses to start next to
    several of them, even on one, unless NCCL is told so; with it NCCL takes main memory.

    Args:
        device: Device of the process.
    """
    if device.startswith("cuda") and not check_cuda_p2p_ib_support():
        for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"):
            os.environ.setdefault(name, "1")


@contextmanager
def joined(resources: Resources) -> Iterator[ProcessGroup]:
    """Join the job's processes for the block, so that a training in it uses all of their devices.

    They meet at a file of the job's directory and talk on this machine only.
    """
    allow_old_drivers(resources.device)
    if resources.processes == 1:
        yield ALONE
        return
    on_gpu = resources.device.startswith("cuda")
    environment = {
        "RANK": resources.rank,
        "LOCAL_RANK": resources.rank,
        "WORLD_SIZE": resources.processes,
        "LOCAL_WORLD_SIZE": resources.processes,
        # Accelerate would divide the cores itself.
        "OMP_NUM_THREADS": resources.threads,
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update({name: str(value) for name, value in environment.items()})
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, loopback)
    meeting = JobPaths(Path(resources.directory)).ranks.absolute() / "meeting"
    dist.init_process_group(
        # Values other than tensors go through main memory: waiting for them keeps no GPU busy.
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        # A file by its path: as a URL, a path with a space would be looked for elsewhere.
        store=dist.FileStore(str(meeting), resources.processes),  # type: ignore[attr-defined]
        rank=resources.rank,
        world_size=resources.processes,
        timeout=_TIMEOUT,
    )
    # A failure in the block ends the process at once, and with it the others.
    yield ProcessGroup(resources.rank, resources.processes)
    dist.barrier()
    dist.destroy_process_group()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value
    AcceleratorState._reset_state(reset_partial_state=True)
