"""The life of one job's process, from its first line to its outcome file."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from sweeper.execution.devices import visible_gpus
from sweeper.execution.executor import Spec
from sweeper.execution.worker.gpu_memory import allocator_settings
from sweeper.execution.worker.malloc import keep_freed_memory
from sweeper.execution.worker.memory_fence import allocator_fraction
from sweeper.execution.worker.rank_processes import OtherRanks
from sweeper.foundation import disk
from sweeper.foundation.files import open_to_append, write_text_atomically
from sweeper.records import OF_DEVICES, Failure, Outcome, Resources
from sweeper.records.layout import JobPaths

FULL_DISK = 74
"""The exit code of a job that cannot even write its outcome; ``EX_IOERR`` of ``sysexits.h``."""
FAILED = 1
"""The exit code of a process next to a trial's first that has reported its failure."""


@dataclass(frozen=True)
class DeviceShare:
    """Share of its machine that a job's process may use, next to the spec's device and threads."""

    cores: frozenset[int] | None = None
    """The cores to stay on; None: any."""
    gpu: float = 1.0
    """The share of each device's memory that it may take, servers next to it included."""
    visible: str | None = None
    """``CUDA_VISIBLE_DEVICES``, in place of the value that the process inherits."""
    directory: str | None = None
    """The working directory, in place of the inherited one."""

    def names(self, place: Resources) -> tuple[str, ...]:
        """Return the names that the executor has for a job's devices.

        Those of a cluster are named by their node: all nodes have devices of the same names.
        """
        devices = place.devices or (place.device,)
        if self.visible is None:
            return devices
        node = "-".join(filter(None, (socket.gethostname(), place.node[:8])))
        return tuple(f"{node} (GPU {gpu})" for gpu in self.visible.split(",")[: len(devices)])


WHOLE = DeviceShare()


def main(
    spec: Spec, share: DeviceShare = WHOLE, run: Callable[[Spec], Outcome] | None = None
) -> None:
    """Run ``spec`` in this process and write its outcome.

    Everything printed goes to the job's log. The process ends with its coordinator, so that no
    orphan works on a trial that a new coordinator has taken over.

    Args:
        spec: The job.
        share: Share of the machine that it may use.
        run: Function that does it; by default ``run_job``.
    """
    paths = JobPaths(Path(spec.place.directory))
    # Ctrl-C in the terminal is for the coordinator, which decides what happens to its jobs.
    os.setsid()
    with _leaving(paths):
        _redirect_output(paths.log)
        if share.directory is not None:
            os.chdir(share.directory)
        if share.cores is not None:
            os.sched_setaffinity(0, share.cores)
        # An orphan of a killed coordinator may take a moment to notice: never work next to it.
        with FileLock(paths.lock):
            others = None
            if spec.place.devices:
                others = OtherRanks(spec, partial(_follow, share=share, run=run))
            _end_with_parent()
            if others is not None:
                others.watch()
            outcome = _run_here(spec, share, run)
            if others is not None:
                others.decide(outcome)
            write_text_atomically(paths.outcome, outcome.model_dump_json(indent=1) + "\n")
            if others is not None:
                others.end()


def _follow(spec: Spec, share: DeviceShare, run: Callable[[Spec], Outcome] | None) -> None:
    """Run one of the processes next to the first."""
    paths = JobPaths(Path(spec.place.directory))
    _end_with_parent()
    with _leaving(paths):
        outcome = _run_here(spec, share, run)
        write_text_atomically(paths.rank(spec.place.rank), outcome.model_dump_json())
        if outcome.state == "failed":
            os._exit(FAILED)


@contextmanager
def _leaving(paths: JobPaths) -> Iterator[None]:
    """End the process with the block, with an exit code that says so if the disk is full."""
    try:
        yield
    except Exception as error:
        if disk.is_full(error, paths.directory):
            os._exit(FULL_DISK)
        raise
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Daemon threads of libraries may hold locks: what matters is written, so leave at once.
    os._exit(0)


def _run_here(spec: Spec, share: DeviceShare, run: Callable[[Spec], Outcome] | None) -> Outcome:
    started = time.time()
    if share.visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share.visible
    place = spec.place
    devices = place.devices or (place.device,)
    claimed = _claim_device(devices, place.rank)
    from sweeper.execution.worker import preload

    if preload.failure is not None:
        print(preload.failure, file=sys.stderr)
        failure = Failure(
            kind="bug",
            message=f"the libraries cannot be imported: {preload.failure.strip().splitlines()[-1]}",
            details=preload.failure,
        )
        return Outcome(state="failed", failure=failure, started=started, finished=time.time())
    if preload.warning is not None and claimed.startswith("cuda"):
        print(preload.warning, file=sys.stderr)
    settings = allocator_settings(place.model_copy(update={"device": claimed}), os.environ)
    import torch

    if settings is not None:
        # Torch may have read the environment when the forkserver imported it. In 2.9 the setter has
        # another name.
        setter = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
        (setter or torch.cuda.memory._set_allocator_settings)(settings)

    from sweeper.execution.worker.run import failure_of, run_job

    torch.set_num_threads(place.threads)
    inside = spec.model_copy(update={"place": place.model_copy(update={"device": claimed})})
    try:
        if claimed == "cpu":
            keep_freed_memory()
        elif claimed.startswith("cuda"):
            _keep_to_share(claimed, share.gpu * (1 - place.served_memory))
            if len(devices) > 1:
                torch.cuda.set_device(claimed)
    except RuntimeError as error:  # the device may be gone
        outcome = Outcome(
            state="failed",
            failure=failure_of(error, "start", inside),
            attempt=spec.attempt,
            started=started,
            finished=time.time(),
            host=socket.gethostname(),
        )
    else:
        if place.memory_gib is not None:
            _limit_memory(place.memory_gib / place.processes)
        outcome = (run or run_job)(inside)
    found: dict[str, Any] = {
        "device": ", ".join(devices),
        "devices": len(devices),
        "sharing": place.sharing,
    }
    reported = outcome.failure
    if reported is not None and reported.kind in OF_DEVICES:
        names = share.names(place)
        own = names if reported.kind == "communication" else names[place.rank : place.rank + 1]
        found["failure"] = reported.model_copy(update={"devices": own})
    else:  # otherwise no further call of the device would succeed
        found["peak_bytes"] = _peak_bytes(claimed)
    return outcome.model_copy(update=found)


def _keep_to_share(device: str, share: float) -> None:
    """Let allocations fail that would take more than the process's share of its GPU.

    A neighbour's memory stays its own: what needs more fails as out of memory.
    """
    import torch

    if share < 1:
        total = torch.cuda.get_device_properties(device).total_memory
        fraction = allocator_fraction(share, total)
        torch.cuda.set_per_process_memory_fraction(fraction, device)


def _peak_bytes(device: str) -> int:
    """Return the most memory that this process has taken (``Outcome.peak_bytes``)."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_reserved()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _limit_memory(gib: float) -> None:
    """Let allocations fail that would take the process beyond ``gib``.

    What it has mapped for itself to write counts (``RLIMIT_DATA``); libraries' code and
    memory-mapped weights do not.
    """
    limit = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _claim_device(devices: Sequence[str], rank: int = 0) -> str:
    """Show only the job's own GPUs to its libraries.

    All of a trial's, to each of its processes: only so can they reach each other's memory.

    Returns:
        The name that the libraries then have for the process's own.
    """
    device = devices[rank]
    kind, _, index = device.partition(":")
    if kind == "cuda" and index:
        own = [visible_gpu(int(name.partition(":")[2])) for name in devices]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return f"cuda:{rank}"
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return device


def visible_gpu(index: int) -> str:
    """Return the name of the coordinator's ``index``-th GPU, through a restriction of its own."""
    listed = visible_gpus() or []
    return listed[index] if index < len(listed) else str(index)


def _redirect_output(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_to_append(log)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _end_with_parent() -> None:
    """End with the coordinator; a process next to a trial's first, with that one."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        # With whatever the job has started: its process leads a group.
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
