"""The processes that train one student together, one on each device.

Each trains on its part of every step's sequences. ``DistributedDataParallel`` adds up the gradients
of its copy of the student, or ``sharding`` those of its part. What concerns all of them (counts,
whether to go on) they tell each other here.
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

from sweeper.records import Resources
from sweeper.records.layout import JobPaths

Value = TypeVar("Value")

_PATIENCE = timedelta(days=365)
"""How long a process waits for another: for all that the other may have to do meanwhile, a score or
the coordinator's word. One that fails ends the trial, so nobody waits for it."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process, among those that train together.

    All of them must call the same methods in the same order.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reports."""
        return self.rank == 0

    def gather(self, value: Value) -> list[Value]:
        """Everybody's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def of_first(self, value: Value) -> Value:
        """The first process's value, for all of them."""
        return self.gather(value)[0]

    def add_up(self, counts: Mapping[str, float]) -> dict[str, float]:
        """The sums over all processes of counts by name."""
        everybody = self.gather(counts)
        return {name: sum(each[name] for each in everybody) for name in counts}


ALONE = ProcessGroup()


@contextmanager
def joined(resources: Resources) -> Iterator[ProcessGroup]:
    """Join the job's processes for the block; what trains in it trains on all of their devices.

    They meet at a file of the job's directory and talk on this machine only.

    Args:
        resources: Of this process.
    """
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
        # What is no tensor goes through the processors' memory: who waits for it keeps no GPU busy.
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        # A file by its path: as a URL, one with a space in it would be looked for elsewhere.
        store=dist.FileStore(str(meeting), resources.processes),  # type: ignore[attr-defined]
        rank=resources.rank,
        world_size=resources.processes,
        timeout=_PATIENCE,
    )
    # Whoever fails in the block leaves at once: its process ends, and with it the others.
    yield ProcessGroup(resources.rank, resources.processes)
    dist.barrier()
    dist.destroy_process_group()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value
    AcceleratorState._reset_state(reset_partial_state=True)
