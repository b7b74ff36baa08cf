"""The loop of a study: prepare, search, report; and how it goes on after an interruption."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from sweeper.analysis.comparison import scored_trials
from sweeper.analysis.teacher_gap import is_better
from sweeper.config.loading import LoadedStudy
from sweeper.execution.executor import Busy, Executor, Finished
from sweeper.foundation.files import write_text_atomically
from sweeper.foundation.retry import Retry
from sweeper.foundation.secrets import redact, redacted_json, secrets_in
from sweeper.records import Outcome, PreparationSpec, Progress, SuiteSpec, TrialSpec
from sweeper.records.layout import StudyPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.text.wording import teacher_gap_sentence
from sweeper.search.arm_search import ArmSearch, Asked
from sweeper.search.storage import Storage, close_storage, open_storage
from sweeper.study import confirmation, preparation, retries
from sweeper.study.arms import ArmState, TrialRecorder
from sweeper.study.budgets import summarize, trial_budgets
from sweeper.study.early_stopping import StopReason, stop_reason
from sweeper.study.final_scores import read_test_baselines
from sweeper.study.interrupts import Interrupted, StopRequest
from sweeper.study.jobs import Jobs, RunningJob, answer
from sweeper.study.manifest import StudyManifest, suite_spec, version_changes
from sweeper.study.results import read_preparation, read_study, read_teacher_gap
from sweeper.study.trial_specs import next_spec
from sweeper.tracking.tracker import Tracker

_POLL_SECONDS = 0.25
_VERDICT_SECONDS = 0.05
"""As often, when trials wait for word whether they go on."""


class Observer(Protocol):
    """Is shown what happens; draws it."""

    def update(self, run: Coordinator) -> None:
        """Called several times a second."""

    def ended(self, spec: TrialSpec, outcome: Outcome) -> None:
        """A trial ended."""

    def message(self, text: str) -> None:
        """Something worth a line of its own."""


class Coordinator:
    """One run of ``sweeper run``: owns the study's databases while it lasts.

    Args:
        study: The checked study file.
        paths: Where the study is recorded.
        snapshot: Its start.
        cache: The content-addressed cache.
        executor: Runs the jobs; entered and left by the caller.
        tracker: Records the study for people.
        observer: Is shown what happens.
        stop: Asked before anything is started.
        patience: For databases that do not answer; shared with ``tracker``.
        preflight: Is told what the data step found, before anything is recorded or trained; raises
            to refuse the study.
    """

    def __init__(
        self,
        study: LoadedStudy,
        paths: StudyPaths,
        snapshot: StudyManifest,
        cache: Path,
        executor: Executor,
        tracker: Tracker,
        observer: Observer,
        stop: StopRequest,
        patience: Retry | None = None,
        preflight: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        self.study = study
        self.paths = paths
        self.started = time.time()
        self.stop = stop
        self._preflight = preflight
        self.phase = "prepare"
        self.arms: dict[str, ArmState] = {}
        self._executor = executor
        self._tracker = tracker
        self._observer = observer
        self._snapshot = snapshot
        self._origin = preparation.make_study_inputs(study, snapshot, cache)
        self._suite = suite_spec(study.selection)
        self._test_suite: SuiteSpec | None = None
        self.higher_is_better = True
        self._patience = patience or Retry()
        self.jobs = Jobs(executor, study.config.compute, self._patience)
        self._secrets = secrets_in(study.file.values)
        where = redact(study.config.storage or str(paths.optuna))
        self._ledger = TrialRecorder(paths, where, tracker, self._secrets)
        self._patience.tell = observer.message
        self._patience.while_waiting = self._while_waiting

    def run(self) -> StudyRecord:
        """Do what is left to do.

        Returns:
            The study with everything that is known of it.

        Raises:
            ConfigError: Data, models, tasks or settings cannot work as written.
            PreflightError: The preflight says so.
            SweeperError: The preparation failed.
            Interrupted: The user stopped it.
        """
        config = self.study.config
        for change in version_changes(self._snapshot):
            self._observer.message(change)
        # While the executor gets ready: it takes some time where there is no database yet.
        self._tracker.connect()
        self._check()
        self._tracker.open_study(config, self._snapshot.provenance, self._study_text())
        self._prepare()
        self.phase = "search"
        storage = open_storage(config.storage or self.paths.optuna, self._patience)
        try:
            self._open_arms(storage)
            self._search()
        finally:
            close_storage(storage)
        if config.confirms():
            self._confirm()
        return self.record()

    def record(self) -> StudyRecord:
        """The study as it stands in its files."""
        return read_study(self.paths, self._snapshot)

    # Preparation

    def _check(self) -> None:
        self._do_steps(preparation.STEPS[:1], trials_left=self._has_trials_left())
        if outcome := read_outcome(self.paths.preparation("data")):
            self._preflight(outcome)

    def _prepare(self) -> None:
        known = read_teacher_gap(self.paths)
        self._do_steps(preparation.STEPS[1:], trials_left=self._has_trials_left())
        lead = read_teacher_gap(self.paths)
        if lead is not None and lead != known and not is_better(lead):
            self._observer.message(teacher_gap_sentence(lead))
        found = read_preparation(self.paths)
        if found.data:
            self._tracker.log_data(found.data)
        if found.teacher:
            self._tracker.log_baseline("teacher", found.teacher)
        if found.starting_student:
            self._tracker.log_baseline("starting_student", found.starting_student)

    def _do_steps(self, groups: Sequence[Sequence[preparation.Step]], *, trials_left: bool) -> None:
        for group in groups:
            waiting = deque(
                spec
                for step in group
                if not preparation.is_done(spec := self._step_spec(step), self.paths)
                # The cache may have been emptied since.
                or (trials_left and not preparation.is_cached(step, self.paths))
            )
            while waiting or self.jobs.running:
                self._check_stop()
                if self.stop.level and not self.jobs.running:
                    raise Interrupted
                while waiting and self.stop.level == 0 and self._executor.free():
                    spec = waiting[0]
                    try:
                        preparation.submit(spec, self.paths.preparation(spec.step), self._executor)
                    except Busy:
                        break
                    waiting.popleft()
                    self.jobs.notice()
                for finished, _ in self._wait():
                    self._finish_step(finished)
            self._origin = preparation.with_results(self._origin, group, self.paths)

    def _has_trials_left(self) -> bool:
        return any(
            arm.stopped is None and sum(bool(t.outcome) for t in arm.trials) < arm.budget
            for arm in self.record().arms
        )

    def _step_spec(self, step: preparation.Step) -> PreparationSpec:
        files = self.paths.preparation(step)
        return preparation.make_spec(self.study, self._origin, self._suite, step, files)

    def _finish_step(self, finished: Finished) -> None:
        assert isinstance(finished.spec, PreparationSpec)
        step, outcome = finished.spec.step, finished.outcome
        if outcome is None or outcome.state != "completed":
            if outcome is not None and outcome.examination is not None:
                self._preflight(outcome)
            files = self.paths.preparation(step)
            raise preparation.explain(self.study, step, outcome, files)
        # What is to be said of the data, the preflight says.
        for note in outcome.notes:
            self._observer.message(f"{step}: {note}")

    # Search

    def _open_arms(self, storage: Storage) -> None:
        config = self.study.config
        budgets = trial_budgets(config.arms, config.trials, config.sampler, config.budget.trials)
        scores = read_preparation(self.paths).scores
        self.higher_is_better = scores.higher_is_better if scores else True
        # Another study of this name may be in the same database.
        known_as = f"{config.study}@{self._snapshot.identity}" if config.storage else config.study
        for name, arm in config.arms.items():
            trials = budgets[name]
            search = ArmSearch(
                storage,
                known_as,
                name,
                arm,
                config.sampler,
                seed=config.seed,
                higher_is_better=self.higher_is_better,
                pruner=config.pruner,
                objectives=config.objectives,
                patience=self._patience,
            )
            spaces = {key: space.model_dump(mode="json") for key, space in arm.search.items()}
            self._tracker.open_arm(name, arm.method, trials, arm.settings, spaces)
            # With nothing to search there is nothing to prune.
            points = enumerate(config.pruner.points()) if arm.search else ()
            state = ArmState(name, arm.method, trials, search, interim=tuple(points))
            self.arms[name] = state
            self._ledger.take_up(state)

    # Confirmation

    def _confirm(self) -> None:
        """Train the winners again with new seeds, and score the test suite, once."""
        assert self.study.test is not None
        record = self.record()
        if not any(scored_trials(arm) for arm in record.arms):
            return
        suite = suite_spec(self.study.test)
        plan = confirmation.open_plan(self.study.config, record, suite.content_hash, self.paths)
        self.phase = "confirm"
        self._test_suite = suite
        self.arms = confirmation.confirmation_arms(plan, record, self.paths)
        for arm in self.arms.values():
            self._ledger.take_up(arm)
        self._do_steps(preparation.TEST_STEPS, trials_left=False)
        for role, outcome in read_test_baselines(self.paths).items():
            self._tracker.log_baseline(role, outcome, test=True)
        self._search()

    # Trials

    def _search(self) -> None:
        while True:
            if self.stop.level == 0:
                self._fill()
            if not self.jobs.running and not self._waits_for_a_machine():
                self._observer.update(self)
                self._check_stop()
                return
            for finished, job in self._wait():
                self._settle(finished, job)

    def _fill(self) -> None:
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

    def _waits_for_a_machine(self) -> bool:
        """Whether trials are left that may start, but nothing to run them on: nodes come and go."""
        return self.stop.level == 0 and any(self._may_start(arm) for arm in self.arms.values())

    def _may_start(self, arm: ArmState) -> bool:
        # What has begun is finished; lost attempts cost nothing.
        return bool(arm.pending) or (arm.unfinished() and self.stop_reason(arm.name) is None)

    def stop_reason(self, arm: str) -> StopReason | None:
        """Why an arm starts no further trial now, if the study's budget forbids it."""
        if self.phase == "confirm":
            return None
        config = self.study.config
        return stop_reason(
            arm,
            {name: state.ended for name, state in self.arms.items()},
            arms=config.arms,
            budget=config.budget,
            devices=config.compute.devices_per_trial,
            higher_is_better=self.higher_is_better,
            running=[
                (job.spec.arm, job.started - job.spec.earlier_seconds / job.spec.place.processes)
                for job in self.jobs.running.values()
                if isinstance(job.spec, TrialSpec)
            ],
            now=time.time(),
        )

    def _start(self, arm: ArmState, asked: Asked) -> bool:
        """Start a trial; False, and it waits, if what was free is so no more."""
        files = arm.files(self.paths, asked.number)
        final = arm.finals[asked.number] if arm.finals is not None else None
        config = self.study.config
        spec = next_spec(
            arm.name,
            config.arms[arm.name],
            asked,
            inputs=self._origin,
            suite=self._suite,
            training=config.training,
            compute=config.compute,
            place=self._executor.next_resources(files.directory),
            files=files,
            interim=arm.interim,
            documents=config.pruner.documents,
            final=final,
            test_suite=self._test_suite if final is not None else None,
        )
        write_text_atomically(files.spec, redacted_json(spec))
        self._tracker.start_trial(spec)
        try:
            self._executor.submit(spec)
        except Busy:
            arm.pending.append(asked.number)
            return False
        self.jobs.notice()
        return True

    def _settle(self, finished: Finished, job: RunningJob) -> None:
        spec, outcome = finished.spec, finished.outcome
        assert isinstance(spec, TrialSpec)
        arm = self.arms[spec.arm]
        files = arm.files(self.paths, spec.number)
        if outcome is None and job.given_up is not None:
            outcome = retries.ended(spec, job.given_up, files, job.started)
            write_text_atomically(files.outcome, outcome.model_dump_json(indent=1) + "\n")
        if outcome is None:
            if retries.note_loss(files, finished.reason) < retries.MOST:
                self._observer.message(
                    f"{spec.arm} #{spec.number} was lost ({finished.reason}); it runs again"
                )
                arm.pending.append(spec.number)
                return
            outcome = retries.lost(spec, finished.reason, files, job.started)
            write_text_atomically(files.outcome, outcome.model_dump_json(indent=1) + "\n")
        if outcome.failure is not None and outcome.failure.kind in retries.UNSPENT:
            # Not the trial's end: once its cause is mended, the same trial runs again.
            raise preparation.stopped_by(self.study, outcome.failure)
        if retries.may_be_smaller(spec, outcome, files):
            self._observer.message(
                f"{spec.arm} #{spec.number} ran out of memory; it runs again in smaller batches"
            )
            arm.pending.append(spec.number)
            return
        arm.ended[spec.number] = summarize(outcome)
        self._observer.ended(spec, outcome)
        self._ledger.record(arm, spec, outcome)

    # Both

    def _wait(self) -> list[tuple[Finished, RunningJob]]:
        waits = any(arm.interim for arm in self.arms.values())
        ended = self.jobs.wait(_VERDICT_SECONDS if waits else _POLL_SECONDS, self._hear)
        self._observer.update(self)
        if self.stop.level >= 2:
            self._check_stop()
        return ended

    def _hear(self, spec: TrialSpec, rows: Sequence[Progress]) -> None:
        for interim in (row.interim for row in rows if row.interim):
            answer(spec, interim, self.arms[spec.arm].search.should_continue(spec.number, interim))
        self._tracker.log_progress(spec, rows)

    def _while_waiting(self) -> None:
        """For a database; jobs go on meanwhile."""
        self._observer.update(self)
        if self.stop.level >= 2:
            self.jobs.stop()
            raise Interrupted

    def _check_stop(self) -> None:
        if self.stop.level == 0:
            return
        if self.stop.level >= 2 or self.phase == "prepare":
            self.jobs.stop()
        elif self.jobs.running:
            return
        if self._is_unfinished():
            raise Interrupted

    def _is_unfinished(self) -> bool:
        return (
            self.phase == "prepare"
            or bool(self.jobs.running)
            or any(self._may_start(arm) for arm in self.arms.values())
        )

    def _study_text(self) -> str:
        return redact(self.study.path.read_text(encoding="utf-8"), self._secrets)


def all_failed(record: StudyRecord) -> bool:
    """Whether there are trials, and every one of them failed."""
    trials = [trial for arm in record.arms for trial in arm.trials]
    return bool(trials) and all(trial.state == "failed" for trial in trials)
