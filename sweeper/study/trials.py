"""The trials of one phase, of the search or of the confirmation: how each starts and ends."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweeper.analysis.server_costs import Job
from sweeper.execution.executor import Busy, Finished
from sweeper.foundation.files import write_text_atomically
from sweeper.foundation.secrets import redacted_json
from sweeper.records import Failure, Progress, TrialSpec
from sweeper.records.collapse import may_stop
from sweeper.records.layout import StudyPaths
from sweeper.search.arm_search import Asked
from sweeper.study import retries
from sweeper.study.arms import ArmState, TrialRecorder
from sweeper.study.budgets import TrialSummary, summarize
from sweeper.study.collaborators import Collaborators
from sweeper.study.early_stopping import StoppingRule, StopReason
from sweeper.study.faulty_devices import FaultyDevices, failed_on, job_name
from sweeper.study.jobs import Jobs, RunningJob, answer
from sweeper.study.server_costs import job_key, running_job
from sweeper.study.trial_specs import TrialSpecs


@dataclass
class Trials:
    """The trials of one phase."""

    paths: StudyPaths
    specs: TrialSpecs
    jobs: Jobs
    """The study's running jobs."""
    recorder: TrialRecorder
    collaborators: Collaborators
    devices: FaultyDevices
    """Devices of this run on which jobs failed."""
    rule: StoppingRule | None = None
    """Rule after which an arm starts no further trial; None: every arm finishes."""
    arms: dict[str, ArmState] = field(default_factory=dict)
    _shares_of: int = 0
    """Number of ended trials that servers' costs were last shared out among."""

    def add(self, arm: ArmState) -> None:
        """Add an arm, with what an earlier run left of it."""
        self.arms[arm.name] = arm
        self.recorder.resume(arm)

    def fill(self) -> None:
        """Start trials while something is free, the arm that has started fewest first."""
        while self.collaborators.executor.free():
            waiting = {arm.name: self._waiting(arm) for arm in self.arms.values()}
            candidates = [
                arm
                for arm in self.arms.values()
                if waiting[arm.name] is not None or self._may_ask(arm)
            ]
            if not candidates:
                return
            arm = min(candidates, key=lambda a: (waiting[a.name] is None, a.asked))
            number = waiting[arm.name]
            if number is not None:
                arm.pending.remove(number)
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
        return bool(arm.pending) or self._may_ask(arm)

    def _may_ask(self, arm: ArmState) -> bool:
        return arm.asked < arm.budget and self.stop_reason(arm.name) is None

    def _waiting(self, arm: ArmState) -> int | None:
        """Return the first interrupted trial for which something is free, if there is one."""
        return next(
            (n for n in arm.pending if self.devices.may_start(arm.files(self.paths, n).directory)),
            None,
        )

    def stop_reason(self, arm: str) -> StopReason | None:
        """Return the limit of the study's budget that keeps an arm from starting a trial now."""
        if self.rule is None:
            return None
        return self.rule.reason(
            arm,
            self._ended(),
            running=[
                (job.spec.arm, job.started - job.spec.earlier_seconds / job.spec.place.processes)
                for job in self.jobs.running.values()
                if isinstance(job.spec, TrialSpec)
            ],
            now=time.time(),
        )

    def _ended(self) -> Mapping[str, Mapping[int, TrialSummary]]:
        """Return how trials ended, by arm and number, with their shares of servers' costs."""
        ended = {name: state.ended for name, state in self.arms.items()}
        count = sum(map(len, ended.values()))
        if count != self._shares_of:
            shares = self.recorder.ledger.shares(self._running())
            for state in self.arms.values() if shares else ():
                for number, trial in state.ended.items():
                    key = job_key(state.files(self.paths, number))
                    state.ended[number] = trial.with_shares(shares.get(key, {}))
            self._shares_of = count
        return ended

    def _running(self) -> dict[str, Job]:
        jobs = self.jobs.running.values()
        return dict(running_job(job.spec, job.started) for job in jobs)

    # One trial

    def _start(self, arm: ArmState, asked: Asked) -> bool:
        """Start a trial; return False, and let it wait, if what was free no longer is."""
        files = arm.files(self.paths, asked.number)
        spec = self.specs.next(
            arm.name,
            asked,
            self.collaborators.place(files.directory, self.devices.avoided(files.directory)),
            files,
            interim=arm.interim,
            run=arm.runs[asked.number] if arm.runs is not None else None,
        )
        write_text_atomically(files.spec, redacted_json(spec))
        self.collaborators.tracker.start_trial(spec)
        try:
            self.collaborators.executor.submit(spec)
        except Busy:
            arm.pending.append(asked.number)
            return False
        self.jobs.notice()
        return True

    def log(self, spec: TrialSpec, rows: Sequence[Progress]) -> None:
        """Answer a trial that waits for the pruner's decision, and record its progress."""
        for interim in (row.interim for row in rows if row.interim):
            answer(spec, interim, self.arms[spec.arm].search.should_continue(spec.number, interim))
        # Where it ends the trial, the message of the failure follows.
        told = [
            line
            for row in rows
            for line in (
                *(sign.told() for sign in row.collapse if not may_stop(spec)),
                *row.warnings,
            )
        ]
        for line in told:
            self.collaborators.observer.message(f"{job_name(spec)}: {line}")
        self.collaborators.tracker.log_progress(spec, rows)

    def finish(self, finished: Finished, job: RunningJob) -> Failure | None:
        """Record how a trial ended, or let it run again; return a failure that stops the study."""
        spec = finished.spec
        assert isinstance(spec, TrialSpec)
        arm = self.arms[spec.arm]
        files = arm.files(self.paths, spec.number)
        outcome = finished.outcome or retries.conclude(
            spec,
            files,
            job.started,
            given_up=job.given_up,
            reason=finished.reason,
            fault=finished.fault,
        )
        if outcome is None:
            self._run_again(arm, spec, f"was lost ({finished.reason}); it runs again")
            return None
        if outcome.failure is not None and outcome.failure.kind in retries.UNSPENT:
            # Not the trial's end: once its cause is fixed, the same trial runs again.
            return outcome.failure
        if outcome.failure is not None and outcome.failure.kind in retries.ELSEWHERE:
            consequences = self.devices.note(spec, outcome.failure, job.started)
            again = retries.runs_elsewhere(outcome, files)
            if again:
                self._run_again(arm, spec, failed_on(outcome.failure))
            for line in consequences:
                self.collaborators.observer.message(line)
            if again:
                return None
        if retries.may_be_smaller(spec, outcome, files):
            self._run_again(arm, spec, "ran out of memory; it runs again in smaller batches")
            return None
        if outcome.scores is not None and outcome.scores.batch_size is not None:
            self.collaborators.observer.message(
                f"{spec.arm} #{spec.number} ran out of memory while it was scored; it was scored"
                f" again with a batch size of {outcome.scores.batch_size}"
            )
        arm.ended[spec.number] = summarize(outcome)
        self.collaborators.observer.ended(spec, outcome)
        self.recorder.record(arm, spec, outcome, running=self._running())
        return None

    def _run_again(self, arm: ArmState, spec: TrialSpec, why: str) -> None:
        self.collaborators.observer.message(f"{job_name(spec)} {why}")
        arm.pending.append(spec.number)
