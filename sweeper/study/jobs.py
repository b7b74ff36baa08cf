"""Running jobs: their progress, and how long they may run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.config.compute import ComputeConfig
from sweeper.execution.executor import Executor, Finished, Spec
from sweeper.foundation.database_retry import Retry
from sweeper.foundation.files import read_json_lines, write_text_atomically
from sweeper.foundation.secrets import redact_file, secrets_in
from sweeper.records import (
    INTERIM_PHASE,
    Failure,
    FailureKind,
    IntermediateScore,
    Progress,
    TrialSpec,
)
from sweeper.records.layout import JobPaths
from sweeper.records.remedies import speed_remedies


def clean_log(files: JobPaths, secrets: AbstractSet[str]) -> None:
    """Remove secrets from the log of a job that has ended."""
    redact_file(files.log, secrets)


def answer(spec: TrialSpec, interim: IntermediateScore, should_continue: bool) -> None:
    """Tell a trial that waits after an intermediate score whether it continues."""
    decision = {"index": interim.index, "goes_on": should_continue}
    write_text_atomically(JobPaths(Path(spec.place.directory)).prune_decision, json.dumps(decision))


@dataclass
class RunningJob:
    """A running job, followed in its progress file."""

    spec: Spec
    started: float = field(default_factory=time.time)
    position: int = 0
    """Byte of the progress file up to which it was read."""
    begun: int = 0
    """Optimiser steps that an earlier attempt had done when the training began."""
    last: Progress | None = None
    since: float = 0.0
    """Start of the job, by the coordinator's clock."""
    heard: float = 0.0
    """Time of its last progress, by the same clock; at first, its start."""
    given_up: Failure | None = None
    """Reason for which the coordinator ended it."""

    @property
    def files(self) -> JobPaths:
        """Files of the job."""
        return JobPaths(Path(self.spec.place.directory))

    def read(self, now: float) -> list[Progress]:
        """Return the job's progress since the last call; ``now`` by the clock."""
        lines, self.position = read_json_lines(self.files.progress, self.position)
        rows = [Progress.model_validate(line) for line in lines]
        for row in rows:
            before, self.last, self.heard = self.last, row, now
            # A training also continues after an intermediate score.
            scored = before is not None and before.phase == INTERIM_PHASE
            if row.phase == "train" and not row.metrics and not scored:
                self.begun = row.step or 0
        return rows

    def overdue(self, compute: ComputeConfig, now: float) -> Failure | None:
        """Return why a trial has to be ended: it ran, or was silent, for longer than allowed."""
        if not isinstance(self.spec, TrialSpec):
            return None
        phase = self.last.phase if self.last else "start"
        kind: FailureKind
        if compute.trial_timeout is not None and now - self.since > compute.trial_timeout:
            kind = "timeout"
            message = f"took longer than {compute.trial_timeout:g} s (compute.trial_timeout)"
        elif compute.stall_timeout is not None and now - self.heard > compute.stall_timeout:
            kind = "stalled"
            message = f"no progress for {compute.stall_timeout:g} s (compute.stall_timeout)"
        else:
            return None
        remedies = speed_remedies(self.spec, phase)
        message = f"{message}, in phase {phase!r}"
        return Failure(kind=kind, message=message, phase=phase, remedies=remedies)


@dataclass
class Jobs:
    """The jobs that an executor runs, each followed in its progress file."""

    executor: Executor
    compute: ComputeConfig
    retry: Retry
    """Retry for databases; jobs may wait meanwhile, so that this time does not count for them."""
    running: dict[str, RunningJob] = field(default_factory=dict)
    """Running jobs by their directories."""

    def notice(self) -> None:
        """Follow the jobs that were submitted since the last call."""
        for spec in self.executor.running():
            if spec.place.directory not in self.running:
                now = self._clock()
                self.running[spec.place.directory] = RunningJob(spec, since=now, heard=now)

    def wait(
        self, timeout: float, on_progress: Callable[[TrialSpec, list[Progress]], None]
    ) -> list[tuple[Finished, RunningJob]]:
        """Return the jobs that ended, waiting up to ``timeout`` seconds for the first.

        ``on_progress`` is called with the progress of each trial since the last call.
        """
        finished = self.executor.wait(timeout)
        for done in finished:
            clean_log(self.running[done.spec.place.directory].files, secrets_in(done.spec))
        for job in self.running.values():
            rows = job.read(self._clock())
            if rows and isinstance(job.spec, TrialSpec):
                on_progress(job.spec, rows)
        ended = [(done, self.running.pop(done.spec.place.directory)) for done in finished]
        for job in self.running.values():
            if job.given_up is None:
                job.given_up = job.overdue(self.compute, self._clock())
                if job.given_up is not None:
                    self.executor.cancel(job.spec)
        return ended

    def stop(self) -> None:
        """End all running jobs now."""
        self.executor.stop()
        for job in self.running.values():
            clean_log(job.files, secrets_in(job.spec))

    def _clock(self) -> float:
        """Return the time in seconds; it stands still while a database does not answer."""
        return time.time() - self.retry.waited
