"""Readers of a job's state and outcome from the files that it writes."""

from __future__ import annotations

from typing import Literal

from filelock import FileLock, Timeout

from sweeper.records.base import DEVICE_FAULTS
from sweeper.records.layout import JobPaths
from sweeper.records.outcomes import Outcome


def read_outcome(paths: JobPaths) -> Outcome | None:
    """Return a job's outcome, or None if there is none that can be read."""
    try:
        return Outcome.model_validate_json(paths.outcome.read_bytes())
    except (OSError, ValueError):
        return None


def read_completed(paths: JobPaths) -> Outcome | None:
    """Return the outcome of a job that completed; None otherwise."""
    outcome = read_outcome(paths)
    return outcome if outcome and outcome.state == "completed" else None


_WAITING = {"full_disk", "server", *DEVICE_FAULTS}
"""Failures after which the same job runs again, once their cause is gone."""

State = Literal["completed", "pruned", "failed", "running", "waiting"]
"""Progress of a job, in one word."""


def read_state(paths: JobPaths) -> tuple[State, Outcome | None]:
    """Return how far a job is, and its outcome.

    One that was ended by a full disk, a faulty device, or a server that does not answer, has none,
    and waits.
    """
    outcome = read_outcome(paths)
    failure = outcome.failure if outcome is not None else None
    if outcome is not None and (failure is None or failure.kind not in _WAITING):
        return outcome.state, outcome
    return ("running" if _is_held(paths) else "waiting"), None


def _is_held(files: JobPaths) -> bool:
    """Return True if a process works on the job: one that was stopped holds no lock."""
    if not files.lock.exists():
        return False
    try:
        with FileLock(files.lock).acquire(timeout=0):
            return False
    except Timeout:
        return True
