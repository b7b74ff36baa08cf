"""A job as a task of a Ray cluster, and how it ended."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout

from sweeper.execution.executor import Finished, Spec
from sweeper.execution.ray_connection import last_line
from sweeper.records import Failure, Outcome
from sweeper.records.layout import JobPaths
from sweeper.records.outcome_files import read_outcome

GRACE_SECONDS = 5.0
"""Seconds that a job whose task has ended may hold its directory."""


@dataclass
class RayJob:
    """A job that runs."""

    spec: Spec
    task: Any
    node: str
    """Id of its node."""


def collect(job: RayJob) -> Finished:
    """Return how a job ended whose task has ended."""
    try:
        text, reason, fault = ray.get(job.task)
    except ray.exceptions.RayError as error:
        wait_for_its_process(job.spec)
        outcome = read_outcome(JobPaths(Path(job.spec.place.directory)))
        return Finished(job.spec, outcome, _reason(error))
    outcome = Outcome.model_validate_json(text) if text is not None else None
    return Finished(
        job.spec, outcome, reason, Failure.model_validate_json(fault) if fault else None
    )


def _reason(error: ray.exceptions.RayError) -> str:
    if isinstance(error, ray.exceptions.TaskCancelledError):
        return "it was cancelled"
    if isinstance(error, ray.exceptions.NodeDiedError | ray.exceptions.TaskUnschedulableError):
        return "its node left the cluster"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "Ray ended it, because its node ran out of memory"
    if isinstance(error, ray.exceptions.WorkerCrashedError):
        return "its Ray worker was ended"
    return f"its Ray task failed: {last_line(error)}"


def wait_for_its_process(spec: Spec) -> None:
    """Wait until nothing works in the job's directory; not for a machine that is out of reach."""
    lock = JobPaths(Path(spec.place.directory)).lock
    with suppress(Timeout, OSError), FileLock(lock, timeout=GRACE_SECONDS):
        pass
