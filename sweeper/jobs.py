"""Running jobs as their coordinator knows them: what they have said, how long they may go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.config.compute import ComputeConfig
from sweeper.execution.executor import Executor, Finished, Spec
from sweeper.paths import JobPaths, read_json_lines
from sweeper.records import INTERIM_PHASE, Failure, Progress, TrialSpec
from sweeper.secrets import redact_credentials, secrets_in, secrets_of_environment


def clean_log(spec: Spec) -> None:
    """Take the job's secrets out of what its libraries printed, once it has ended."""
    log = JobPaths(Path(spec.place.directory)).log
    try:
        # Byte for byte, but for the secrets: whatever else a log holds stays.
        text = log.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return
    clean = redact_credentials(text, secrets_in(spec) | secrets_of_environment())
    if clean != text:
        temporary = log.with_name(f".{log.name}.clean")
        temporary.write_bytes(clean.encode("utf-8", "surrogateescape"))
        os.replace(temporary, log)


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
    heard: float = field(default_factory=time.time)
    """When something new was read there, by this process's clock; at first, when it started."""
    given_up: Failure | None = None
    """Why the coordinator has ended it."""

    def read(self) -> list[Progress]:
        """What the job has said since it was last asked."""
        files = JobPaths(Path(self.spec.place.directory))
        lines, self.position = read_json_lines(files.progress, self.position)
        rows = [Progress.model_validate(line) for line in lines]
        for row in rows:
            before, self.last, self.heard = self.last, row, time.time()
            # It goes on, too, after it was scored in its midst.
            scored = before is not None and before.phase == INTERIM_PHASE
            if row.phase == "train" and not row.metrics and not scored:
                self.begun = row.step or 0
        return rows

    def overdue(self, compute: ComputeConfig) -> Failure | None:
        """Why it has to be ended: a trial that has run, or been silent, for longer than allowed."""
        if not isinstance(self.spec, TrialSpec):
            return None
        now, phase = time.time(), self.last.phase if self.last else "start"
        if compute.trial_timeout is not None and now - self.started > compute.trial_timeout:
            message = f"took longer than {compute.trial_timeout:g} s (compute.trial_timeout)"
            return Failure(kind="timeout", message=f"{message}, in phase {phase!r}")
        if compute.stall_timeout is not None and now - self.heard > compute.stall_timeout:
            message = f"no progress for {compute.stall_timeout:g} s (compute.stall_timeout)"
            return Failure(kind="stalled", message=f"{message}, in phase {phase!r}")
        return None


class Jobs:
    """The jobs that an executor runs, each followed in its progress file.

    Args:
        executor: Runs them.
        compute: How long trials may go on.
    """

    def __init__(self, executor: Executor, compute: ComputeConfig) -> None:
        self.running: dict[str, RunningJob] = {}
        """By the job's directory."""
        self._executor = executor
        self._compute = compute

    def notice(self) -> None:
        """Follow what was submitted since."""
        for spec in self._executor.running():
            if spec.place.directory not in self.running:
                self.running[spec.place.directory] = RunningJob(spec)

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
            clean_log(done.spec)
        for job in self.running.values():
            rows = job.read()
            if rows and isinstance(job.spec, TrialSpec):
                hear(job.spec, rows)
        ended = [(done, self.running.pop(done.spec.place.directory)) for done in finished]
        for job in self.running.values():
            if job.given_up is None:
                job.given_up = job.overdue(self._compute)
                if job.given_up is not None:
                    self._executor.cancel(job.spec)
        return ended
