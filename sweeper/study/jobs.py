"""Running jobs as their coordinator knows them: what they have said, how long they may go on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.config.compute import ComputeConfig
from sweeper.execution.executor import Executor, Finished, Spec
from sweeper.foundation.files import read_json_lines, write_text_atomically
from sweeper.foundation.retry import Retry
from sweeper.foundation.secrets import redact_credentials, secrets_in, secrets_of_environment
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
    """Take secrets out of what a job's libraries printed, once it has ended."""
    log = files.log
    try:
        # Byte for byte, but for the secrets: whatever else a log holds stays.
        text = log.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return
    clean = redact_credentials(text, secrets | secrets_of_environment())
    if clean != text:
        temporary = log.with_name(f".{log.name}.clean")
        temporary.write_bytes(clean.encode("utf-8", "surrogateescape"))
        os.replace(temporary, log)


def answer(spec: TrialSpec, interim: IntermediateScore, should_continue: bool) -> None:
    """Tell a trial that was scored in the middle of its training whether it goes on."""
    files = JobPaths(Path(spec.place.directory))
    write_text_atomically(
        files.prune_decision, json.dumps({"index": interim.index, "goes_on": should_continue})
    )


@dataclass
class RunningJob:
    """What is known of a running job from its progress file."""

    spec: Spec
    started: float = field(default_factory=time.time)
    position: int = 0
    """The byte of the progress file up to which it has been read."""
    begun: int = 0
    """Optimiser steps that were done when its training began, by an earlier attempt."""
    last: Progress | None = None
    since: float = 0.0
    """When it started, by its coordinator's ``clock``."""
    heard: float = 0.0
    """When something new was read there, by the same clock; at first, when it started."""
    given_up: Failure | None = None
    """Why the coordinator has ended it."""

    @property
    def files(self) -> JobPaths:
        """The job's."""
        return JobPaths(Path(self.spec.place.directory))

    def read(self, now: float) -> list[Progress]:
        """What the job has said since it was last asked; ``now`` by the clock."""
        lines, self.position = read_json_lines(self.files.progress, self.position)
        rows = [Progress.model_validate(line) for line in lines]
        for row in rows:
            before, self.last, self.heard = self.last, row, now
            # It goes on, too, after it was scored in its midst.
            scored = before is not None and before.phase == INTERIM_PHASE
            if row.phase == "train" and not row.metrics and not scored:
                self.begun = row.step or 0
        return rows

    def overdue(self, compute: ComputeConfig, now: float) -> Failure | None:
        """Why it has to be ended: a trial that has run, or been silent, for longer than allowed."""
        if not isinstance(self.spec, TrialSpec):
            return None
        phase = self.last.phase if self.last else "start"
        if compute.trial_timeout is not None and now - self.since > compute.trial_timeout:
            message = f"took longer than {compute.trial_timeout:g} s (compute.trial_timeout)"
            return self._too_slow("timeout", message, phase)
        if compute.stall_timeout is not None and now - self.heard > compute.stall_timeout:
            message = f"no progress for {compute.stall_timeout:g} s (compute.stall_timeout)"
            return self._too_slow("stalled", message, phase)
        return None

    def _too_slow(self, kind: FailureKind, message: str, phase: str) -> Failure:
        assert isinstance(self.spec, TrialSpec)
        return Failure(
            kind=kind,
            message=f"{message}, in phase {phase!r}",
            remedies=speed_remedies(self.spec, phase),
        )


class Jobs:
    """The jobs that an executor runs, each followed in its progress file.

    Args:
        executor: Runs them.
        compute: How long trials may go on.
        patience: For databases. While they do not answer, jobs may wait for their coordinator, and
            it hears nothing of them: that time is not held against them.
    """

    def __init__(self, executor: Executor, compute: ComputeConfig, patience: Retry) -> None:
        self.running: dict[str, RunningJob] = {}
        """By the job's directory."""
        self._executor = executor
        self._compute = compute
        self._patience = patience

    def notice(self) -> None:
        """Follow what was submitted since."""
        for spec in self._executor.running():
            if spec.place.directory not in self.running:
                now = self._clock()
                self.running[spec.place.directory] = RunningJob(spec, since=now, heard=now)

    def wait(
        self, timeout: float, hear: Callable[[TrialSpec, list[Progress]], None]
    ) -> list[tuple[Finished, RunningJob]]:
        """The jobs that ended, waiting up to ``timeout`` seconds for the first.

        Args:
            timeout: In seconds.
            hear: Is given what a trial has said since the last time.
        """
        finished = self._executor.wait(timeout)
        for done in finished:
            self._clean_log(self.running[done.spec.place.directory])
        for job in self.running.values():
            rows = job.read(self._clock())
            if rows and isinstance(job.spec, TrialSpec):
                hear(job.spec, rows)
        ended = [(done, self.running.pop(done.spec.place.directory)) for done in finished]
        for job in self.running.values():
            if job.given_up is None:
                job.given_up = job.overdue(self._compute, self._clock())
                if job.given_up is not None:
                    self._executor.cancel(job.spec)
        return ended

    def stop(self) -> None:
        """End all running jobs now."""
        self._executor.stop()
        for job in self.running.values():
            self._clean_log(job)

    def _clock(self) -> float:
        """Seconds that stand still while a database does not answer."""
        return time.time() - self._patience.waited

    @staticmethod
    def _clean_log(job: RunningJob) -> None:
        clean_log(job.files, secrets_in(job.spec))
