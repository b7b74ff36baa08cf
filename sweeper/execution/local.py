"""Jobs as processes on this machine, started from a forkserver that has the libraries loaded."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from itertools import takewhile
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from types import TracebackType

from sweeper.config.study import ComputeConfig
from sweeper.errors import SweeperError
from sweeper.execution import worker
from sweeper.execution.executor import Finished, Spec, read_outcome, without_room
from sweeper.paths import JobPaths
from sweeper.versions import available_cores

_GRACE_SECONDS = 5.0
"""How long a job that was asked to end may take before it is killed."""


@dataclass
class _Job:
    spec: Spec
    process: ForkServerProcess
    slot: int


class LocalExecutor:
    """Runs up to ``workers`` jobs at a time; cores and devices are divided among them.

    Every job is a process of its own, in its own process group: a crash, a kill or a leak stays in
    it. Jobs start in about two seconds, because the forkserver has imported torch, transformers,
    TRL and lm-eval once.
    """

    def __init__(self, compute: ComputeConfig) -> None:
        self._workers = compute.workers
        self._devices = _devices(compute.device)
        self._threads = compute.threads_per_worker or max(1, available_cores() // self._workers)
        self._jobs: list[_Job] = []
        self._context = multiprocessing.get_context("forkserver")

    def __enter__(self) -> LocalExecutor:
        """Start the forkserver, which imports the libraries while the caller goes on."""
        self._context.set_forkserver_preload(["sweeper.execution.preload"])
        ensure_running()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop whatever still runs."""
        self.stop()

    def free(self) -> int:
        """How many jobs could be submitted now."""
        return self._workers - len(self._jobs)

    def next_place(self, directory: Path) -> tuple[str, int]:
        """The device and the CPU threads that the next job gets."""
        return self._devices[self._free_slot() % len(self._devices)], self._threads

    def submit(self, spec: Spec) -> None:
        """Start a job.

        Raises:
            RuntimeError: Nothing is free.
        """
        if self.free() < 1:
            raise RuntimeError(f"All {self._workers} workers are busy.")
        name = Path(spec.place.directory).name
        process = self._context.Process(target=worker.main, args=(spec,), name=name)
        slot = self._free_slot()
        process.start()
        self._jobs.append(_Job(spec, process, slot))

    def wait(self, timeout: float) -> list[Finished]:
        """The jobs that ended, waiting up to ``timeout`` seconds for the first."""
        ended = set(wait_for([job.process.sentinel for job in self._jobs], timeout))
        finished = [job for job in self._jobs if job.process.sentinel in ended]
        self._jobs = [job for job in self._jobs if job.process.sentinel not in ended]
        return [self._collect(job) for job in finished]

    def running(self) -> list[Spec]:
        """The jobs that run, in the order of their start."""
        return [job.spec for job in self._jobs]

    def process_ids(self) -> list[int]:
        """The running jobs' process ids, in the order of ``running``."""
        return [job.process.pid for job in self._jobs if job.process.pid is not None]

    def cancel(self, spec: Spec) -> None:
        """End one job now; ``wait`` returns it, with an outcome only if it was quicker."""
        for job in self._jobs:
            if job.spec == spec:
                _signal_group(job.process, signal.SIGKILL)

    def stop(self) -> None:
        """End all running jobs now; they report no outcome."""
        for job in self._jobs:
            _signal_group(job.process, signal.SIGTERM)
        for job in self._jobs:
            job.process.join(_GRACE_SECONDS)
            if job.process.is_alive():
                _signal_group(job.process, signal.SIGKILL)
                job.process.join()
        self._jobs = []

    def _free_slot(self) -> int:
        taken = {job.slot for job in self._jobs}
        return next(slot for slot in range(self._workers + 1) if slot not in taken)

    @staticmethod
    def _collect(job: _Job) -> Finished:
        job.process.join()
        code = job.process.exitcode
        paths = JobPaths(Path(job.spec.place.directory))
        outcome = read_outcome(paths)
        if outcome is None and code == worker.FULL_DISK:
            outcome = without_room(paths)
        if code is not None and code < 0:
            reason = f"its process was ended by {signal.Signals(-code).name}"
        else:
            reason = f"its process ended with exit code {code} and no outcome"
        job.process.close()
        return Finished(job.spec, outcome, reason)


def _signal_group(process: ForkServerProcess, number: signal.Signals) -> None:
    """Signal a job's process and whatever it started; it may be gone, or not yet a group."""
    if process.pid is None:
        return
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        if process.is_alive():
            os.kill(process.pid, number)


def _devices(wanted: str) -> list[str]:
    """The devices to give out in turn, found without loading torch in the coordinator."""
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
