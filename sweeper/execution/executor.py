"""Where jobs run: the seam between the coordinator and whatever runs its jobs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from filelock import FileLock, Timeout

from sweeper import disk
from sweeper.paths import JobPaths
from sweeper.records import Failure, Outcome, Place, PreparationSpec, TrialSpec

Spec = TrialSpec | PreparationSpec


@dataclass(frozen=True)
class Finished:
    """A job whose process has ended."""

    spec: Spec
    outcome: Outcome | None
    """What it reported; None if it ended without a word."""
    reason: str
    """How the process ended, for people; what an outcome of None is explained by."""


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

    def free(self) -> int:
        """How many jobs could be submitted now."""

    def next_place(self, directory: Path) -> Place:
        """Where the next job runs that works in ``directory``."""

    def submit(self, spec: Spec) -> None:
        """Start a job.

        Raises:
            Busy: Nothing is free.
        """

    def wait(self, timeout: float) -> list[Finished]:
        """The jobs that ended, waiting up to ``timeout`` seconds for the first."""

    def running(self) -> list[Spec]:
        """The jobs that run, in the order of their start."""

    def cancel(self, spec: Spec) -> None:
        """End one job now; ``wait`` returns it, with an outcome only if it was quicker."""

    def stop(self) -> None:
        """End all running jobs now; they report no outcome."""


def read_outcome(paths: JobPaths) -> Outcome | None:
    """A job's outcome, or None if there is none that can be read."""
    try:
        return Outcome.model_validate_json(paths.outcome.read_bytes())
    except (OSError, ValueError):
        return None


def read_completed(paths: JobPaths) -> Outcome | None:
    """The same of a job that completed; None otherwise."""
    outcome = read_outcome(paths)
    return outcome if outcome and outcome.state == "completed" else None


State = Literal["completed", "pruned", "failed", "running", "waiting"]
"""How far a job is."""


def read_state(paths: JobPaths) -> tuple[State, Outcome | None]:
    """How far a job is, and its outcome; one that a full disk ended has none, and waits."""
    outcome = read_outcome(paths)
    if outcome is not None and not (outcome.failure and outcome.failure.kind == "full_disk"):
        return outcome.state, outcome
    return ("running" if _is_held(paths) else "waiting"), None


def _is_held(files: JobPaths) -> bool:
    """Whether a process works on the job; one that was stopped no longer holds its lock."""
    if not files.lock.exists():
        return False
    try:
        with FileLock(files.lock).acquire(timeout=0):
            return False
    except Timeout:
        return True


def without_room(paths: JobPaths) -> Outcome:
    """The outcome of a job that could not write its own, because no space is left."""
    failure = Failure(kind="full_disk", message=disk.explain(None, paths.directory))
    now = time.time()
    return Outcome(state="failed", failure=failure, started=now, finished=now)
