"""The trials of one phase, of the search or of the confirmation: how each starts and ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sweeper.execution.executor import Busy, Finished
from sweeper.foundation.files import write_text_atomically
from sweeper.foundation.secrets import redacted_json
from sweeper.records import Failure, Progress, TrialSpec
from sweeper.records.layout import StudyPaths
from sweeper.search.arm_search import Asked
from sweeper.study import retries
from sweeper.study.arms import ArmState, TrialRecorder
from sweeper.study.budgets import summarize
from sweeper.study.collaborators import Collaborators
from sweeper.study.early_stopping import StoppingRule, StopReason
from sweeper.study.jobs import Jobs, RunningJob, answer
from sweeper.study.trial_specs import TrialSpecs


class Trials:
    """The trials of one phase.

    Args:
        paths: The study's place below ``runs``.
        specs: What the specs of all trials have in common.
        jobs: The study's running jobs.
        recorder: Records how trials end.
        collaborators: The executor, the tracker and the observer.
        rule: When an arm starts no further trial; None: every arm finishes.
    """

    def __init__(
        self,
        paths: StudyPaths,
        specs: TrialSpecs,
        jobs: Jobs,
        recorder: TrialRecorder,
        collaborators: Collaborators,
        rule: StoppingRule | None = None,
    ) -> None:
        self.arms: dict[str, ArmState] = {}
        self._paths = paths
        self._specs = specs
        self._jobs = jobs
        self._recorder = recorder
        self._executor = collaborators.executor
        self._tracker = collaborators.tracker
        self._observer = collaborators.observer
        self._rule = rule

    def add(self, arm: ArmState) -> None:
        """Add an arm, with what an earlier run left of it."""
        self.arms[arm.name] = arm
        self._recorder.resume(arm)

    def fill(self) -> None:
        """Start trials while something is free, the arm that has started fewest first."""
        while self._executor.free():
            candidates = [arm for arm in self.arms.values() if self._may_start(arm)]
            if not candidates:
                return
            arm = min(candidates, key=lambda a: (not a.pending, a.asked))
            if arm.pending:
                number = arm.pending.popleft()
                asked = arm.search.resume(number)
            else:
                asked = arm.search.ask()
                arm.asked += 1
            if not self._start(arm, asked):
                return

    def any_left(self) -> bool:
        """Return whether an arm may start a trial."""
        return any(self._may_start(arm) for arm in self.arms.values())

    def _may_start(self, arm: ArmState) -> bool:
        # What has begun is finished; lost attempts cost nothing.
        return bool(arm.pending) or (arm.unfinished() and self.stop_reason(arm.name) is None)

    def stop_reason(self, arm: str) -> StopReason | None:
        """Return the limit of the study's budget that keeps an arm from starting a trial now."""
        if self._rule is None:
            return None
        return self._rule.reason(
            arm,
            {name: state.ended for name, state in self.arms.items()},
            running=[
                (job.spec.arm, job.started - job.spec.earlier_seconds / job.spec.place.processes)
                for job in self._jobs.running.values()
                if isinstance(job.spec, TrialSpec)
            ],
            now=time.time(),
        )

    # One trial

    def _start(self, arm: ArmState, asked: Asked) -> bool:
        """Start a trial; return False, and let it wait, if what was free no longer is."""
        files = arm.files(self._paths, asked.number)
        spec = self._specs.next(
            arm.name,
            asked,
            self._executor.next_resources(files.directory),
            files,
            interim=arm.interim,
            run=arm.runs[asked.number] if arm.runs is not None else None,
        )
        write_text_atomically(files.spec, redacted_json(spec))
        self._tracker.start_trial(spec)
        try:
            self._executor.submit(spec)
        except Busy:
            arm.pending.append(asked.number)
            return False
        self._jobs.notice()
        return True

    def log(self, spec: TrialSpec, rows: Sequence[Progress]) -> None:
        """Answer a trial that waits for the pruner's decision, and record its progress."""
        for interim in (row.interim for row in rows if row.interim):
            answer(spec, interim, self.arms[spec.arm].search.should_continue(spec.number, interim))
        self._tracker.log_progress(spec, rows)

    def finish(self, finished: Finished, job: RunningJob) -> Failure | None:
        """Record how a trial ended, or let it run again.

        Returns:
            The failure, if it stops the study.
        """
        spec = finished.spec
        assert isinstance(spec, TrialSpec)
        arm = self.arms[spec.arm]
        files = arm.files(self._paths, spec.number)
        outcome = finished.outcome or retries.conclude(
            spec, files, job.started, given_up=job.given_up, reason=finished.reason
        )
        if outcome is None:
            self._run_again(arm, spec, f"was lost ({finished.reason}); it runs again")
            return None
        if outcome.failure is not None and outcome.failure.kind in retries.UNSPENT:
            # Not the trial's end: once its cause is fixed, the same trial runs again.
            return outcome.failure
        if retries.may_be_smaller(spec, outcome, files):
            self._run_again(arm, spec, "ran out of memory; it runs again in smaller batches")
            return None
        arm.ended[spec.number] = summarize(outcome)
        self._observer.ended(spec, outcome)
        self._recorder.record(arm, spec, outcome)
        return None

    def _run_again(self, arm: ArmState, spec: TrialSpec, why: str) -> None:
        self._observer.message(f"{spec.arm} #{spec.number} {why}")
        arm.pending.append(spec.number)
