"""The executor protocol: the seam between the coordinator and whatever runs its jobs."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from sweeper.foundation import disk
from sweeper.records import Failure, Outcome, PreparationSpec, Resources, TrialSpec
from sweeper.records.layout import JobPaths

Spec = TrialSpec | PreparationSpec


@dataclass(frozen=True)
class Finished:
    """A job whose process has ended."""

    spec: Spec
    outcome: Outcome | None
    """Outcome that the job reported; None if it ended without one."""
    reason: str
    """Reason of its end, for people; explains a missing outcome."""
    fault: Failure | None = None
    """Fault of a device that ended it, if one did so before there was an outcome."""


class Busy(RuntimeError):
    """Nothing is free, or not any more: others may use the same machines."""


class Executor(Protocol):
    """Runs jobs and reports what ended. Owned by one coordinator, used from one thread.

    A job's directory exists and holds its spec before ``submit``. The executor writes nothing there
    but what the job itself writes.
    """

    def __enter__(self) -> Executor:
        """Get ready."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop whatever still runs."""

    def free(self, avoid: Collection[str] = ()) -> int:
        """Return how many jobs could be submitted now.

        Args:
            avoid: Devices that the job must not run on, unless there are no others.
        """

    def devices(self) -> tuple[str, ...]:
        """Return the devices that jobs run on, by the names that jobs have for them."""

    def next_resources(self, directory: Path, avoid: Collection[str] = ()) -> Resources:
        """Return where the next job runs that works in ``directory``; ``avoid`` as in ``free``."""

    def set_aside(self, devices: Collection[str]) -> None:
        """Give these devices no more jobs, and others again; names are those of failures."""

    def exhausted(self) -> bool:
        """Return True if no job can run any more, because of the devices that are set aside."""

    def submit(self, spec: Spec) -> None:
        """Start a job.

        Raises:
            Busy: Nothing is free.
        """

    def wait(self, timeout: float) -> list[Finished]:
        """Return the jobs that ended, waiting up to ``timeout`` seconds for the first."""

    def running(self) -> list[Spec]:
        """Return the jobs that run, in the order of their start."""

    def cancel(self, spec: Spec) -> None:
        """End one job now; ``wait`` returns it, with an outcome only if it was quicker."""

    def stop(self) -> None:
        """End all running jobs now; they report no outcome."""


def without_room(paths: JobPaths) -> Outcome:
    """Return the outcome of a job that could not write its own, because no space is left."""
    failure = Failure(kind="full_disk", message=disk.explain(None, paths.directory))
    now = time.time()
    return Outcome(state="failed", failure=failure, started=now, finished=now)
