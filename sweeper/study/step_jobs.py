"""The jobs of the preparation: how a step starts and ends, and when it tries another device."""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass
from functools import partial

from sweeper.config.loading import LoadedStudy
from sweeper.execution.executor import Busy, Finished
from sweeper.records import PreparationSpec
from sweeper.records.layout import StudyPaths
from sweeper.study import preparation, retries
from sweeper.study.collaborators import Collaborators
from sweeper.study.faulty_devices import FaultyDevices, failed_on, may_be_the_device
from sweeper.study.jobs import Jobs, RunningJob
from sweeper.study.preparation_order import Step


@dataclass(frozen=True)
class StepJobs:
    """Starts the steps of a study's preparation, and reads how they ended.

    Attributes:
        study: The study.
        paths: Files of the study.
        collaborators: What the coordinator works with.
        jobs: The study's running jobs.
        devices: Devices of this run on which jobs failed.
    """

    study: LoadedStudy
    paths: StudyPaths
    collaborators: Collaborators
    jobs: Jobs
    devices: FaultyDevices

    def start_one(self, ready: MutableSequence[PreparationSpec]) -> bool:
        """Start the first of the ``ready`` steps for which something is free, and take it out.

        Returns:
            False if there is none.
        """
        if not self.collaborators.executor.free():
            return False
        for spec in ready:
            if self.devices.may_start(spec.place.directory):
                started = self._start(spec)
                if started:
                    ready.remove(spec)
                return started
        return False

    def _start(self, spec: PreparationSpec) -> bool:
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

    def finish(self, finished: Finished) -> Step:
        """Return the step that was completed.

        Raises:
            SweeperError: It failed.
        """
        assert isinstance(finished.spec, PreparationSpec)
        step, outcome = finished.spec.step, finished.outcome
        if outcome is None or outcome.state != "completed":
            if outcome is not None and outcome.examination is not None:
                self.collaborators.preflight(outcome)
            files = self.paths.preparation(step)
            raise preparation.explain(self.study, step, outcome, files, finished.fault)
        # The preflight reports what the data step found.
        for note in outcome.notes:
            self.collaborators.observer.message(f"{step}: {note}")
        return step
