"""A running job as its coordinator knows it: what it has said, and how long it may go on."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.config.study import ComputeConfig
from sweeper.execution.executor import Spec
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
