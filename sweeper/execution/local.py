"""Jobs as processes on this machine, started from a forkserver that has the libraries loaded."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from types import TracebackType

from sweeper.config.compute import ComputeConfig
from sweeper.execution.device_sharing import DeviceSlots
from sweeper.execution.executor import Busy, Finished, Spec
from sweeper.execution.processes import JobProcess, signals_waiting, start_forkserver
from sweeper.execution.set_aside import SetAside
from sweeper.execution.worker.process import DeviceShare
from sweeper.records import Outcome, Resources

_GRACE_SECONDS = 5.0
"""Seconds that a job may take to end when asked, before it is killed."""


@dataclass
class _LocalJob:
    spec: Spec
    process: JobProcess
    slot: int


class LocalExecutor:
    """Runs up to ``workers`` jobs at a time; cores and devices are divided among them.

    Every job is a process of its own, in its own process group: a crash, a kill or a leak stays in
    it. Jobs start in about two seconds, because the forkserver has imported torch, transformers,
    TRL and lm-eval once.

    Args:
        compute: Resources that the study asks for.
        devices: The devices to give out in turn, in place of those that are found.
        run: Function that job processes call in place of ``run_job``; of a module.

    Raises:
        SweeperError: The machine does not have what ``compute`` asks for.
    """

    def __init__(
        self,
        compute: ComputeConfig,
        devices: Sequence[str] | None = None,
        run: Callable[[Spec], Outcome] | None = None,
    ) -> None:
        self._run = run
        self._slots = DeviceSlots.of(compute, devices)
        self._aside = SetAside([self._devices_of(slot) for slot in range(self._slots.workers)])
        self._jobs: list[_LocalJob] = []

    def __enter__(self) -> LocalExecutor:
        """Start the forkserver, which imports the libraries while the caller continues."""
        start_forkserver()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop whatever still runs."""
        self.stop()

    def free(self, avoid: Collection[str] = ()) -> int:
        """Return how many jobs could be submitted now, on none of ``avoid`` if there are others."""
        return len(self._free_slots(avoid))

    def devices(self) -> tuple[str, ...]:
        """Return the devices that jobs run on."""
        return self._slots.used()

    def next_resources(self, directory: Path, avoid: Collection[str] = ()) -> Resources:
        """Return where the next job runs that works in ``directory``; ``avoid`` as in ``free``."""
        slot = next(iter(self._free_slots(avoid)), None)
        taken = {job.slot for job in self._jobs}
        return self._slots.resources(
            self._slots.first_free(taken) if slot is None else slot, directory
        )

    def set_aside(self, devices: Collection[str]) -> None:
        """Give these devices no more jobs, and all others again; what runs there continues."""
        self._aside.set(devices)

    def exhausted(self) -> bool:
        """Return True if every slot has a device that is set aside."""
        return not self._aside.usable()

    def submit(self, spec: Spec) -> None:
        """Start a job.

        Raises:
            Busy: Nothing is free.
        """
        free = self._free_slots()
        if not free:
            raise Busy(f"All {self._slots.workers} workers are busy.")
        wanted = (slot for slot in free if self._devices_of(slot)[0] == spec.place.device)
        slot = next(wanted, free[0])
        cores = self._slots.cores[slot] if self._slots.cores else None
        # Whatever is started is known, and so can be stopped.
        with signals_waiting():
            process = JobProcess(spec, DeviceShare(cores, self._slots.gpu), self._run)
            self._jobs.append(_LocalJob(spec, process, slot))

    def wait(self, timeout: float) -> list[Finished]:
        """Return the jobs that ended, waiting up to ``timeout`` seconds for the first."""
        ended = set(wait_for([job.process.sentinel for job in self._jobs], timeout))
        finished = [job for job in self._jobs if job.process.sentinel in ended]
        self._jobs = [job for job in self._jobs if job.process.sentinel not in ended]
        return [job.process.collect() for job in finished]

    def running(self) -> list[Spec]:
        """Return the jobs that run, in the order of their start."""
        return [job.spec for job in self._jobs]

    def process_ids(self) -> list[int]:
        """Return the running jobs' process ids, in the order of ``running``."""
        return [job.process.pid for job in self._jobs if job.process.pid is not None]

    def cancel(self, spec: Spec) -> None:
        """End one job now; ``wait`` returns it, with an outcome only if it was quicker."""
        for job in self._jobs:
            if job.spec == spec:
                job.process.signal(signal.SIGKILL)

    def stop(self) -> None:
        """End all running jobs now; they report no outcome."""
        for job in self._jobs:
            job.process.signal(signal.SIGTERM)
        for job in self._jobs:
            job.process.end(_GRACE_SECONDS)
        self._jobs = []

    def _free_slots(self, avoid: Collection[str] = ()) -> list[int]:
        taken = {job.slot for job in self._jobs}
        return [slot for slot in self._aside.usable(avoid) if slot not in taken]

    def _devices_of(self, slot: int) -> tuple[str, ...]:
        place = self._slots.resources(slot, Path())
        return place.devices or (place.device,)
