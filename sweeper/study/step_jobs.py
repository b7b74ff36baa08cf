"""The jobs of the preparation: how a step starts, and when it tries another device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sweeper.execution.executor import Busy, Finished
from sweeper.records import PreparationSpec
from sweeper.study import preparation, retries
from sweeper.study.collaborators import Collaborators
from sweeper.study.faulty_devices import FaultyDevices, failed_on, may_be_the_device
from sweeper.study.jobs import Jobs, RunningJob


@dataclass(frozen=True)
class StepJobs:
    """Starts the steps of a study's preparation.

    Attributes:
        collaborators: What the coordinator works with.
        jobs: The study's running jobs.
        devices: Devices of this run on which jobs failed.
    """

    collaborators: Collaborators
    jobs: Jobs
    devices: FaultyDevices

    def may_start(self, spec: PreparationSpec) -> bool:
        """Return whether something is free for a step, once the executor has anything free."""
        return self.devices.may_start(spec.place.directory)

    def start(self, spec: PreparationSpec) -> bool:
        """Start a step; return False if what was free no longer is."""
        avoid = self.devices.avoided(spec.place.directory)
        place = partial(self.collaborators.place, avoid=avoid)
        try:
            preparation.submit(spec, self.collaborators.executor, place)
        except Busy:
            return False
        self.jobs.notice()
        return True

    def try_elsewhere(self, finished: Finished, job: RunningJob) -> PreparationSpec | None:
        """Return a step that has to run again, because its device may be why it failed."""
        spec, outcome = finished.spec, finished.outcome
        assert isinstance(spec, PreparationSpec)
        failure = finished.fault if outcome is None else outcome.failure
        if failure is None or failure.kind not in retries.ELSEWHERE:
            return None
        consequences = self.devices.note(spec, failure, job.started)
        again = may_be_the_device(self.devices.failures(spec))
        if again:
            self.collaborators.observer.message(f"{spec.step} {failed_on(failure)}")
        for line in consequences:
            self.collaborators.observer.message(line)
        return spec if again else None
