"""A running job as its coordinator knows it: what it has said, and how long it may go on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from sweeper.config.study import ComputeConfig
from sweeper.execution.executor import Spec
from sweeper.paths import JobPaths, read_json_lines
from sweeper.records import Failure, Progress, TrialSpec


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
        if rows:
            self.last, self.heard = rows[-1], time.time()
        for row in rows:
            if row.phase == "train" and not row.metrics:
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
