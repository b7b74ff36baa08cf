"""The loop of a study: prepare, search, confirm; the same command resumes it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

from sweeper.analysis.comparison import scored_trials
from sweeper.analysis.teacher_gap import is_better
from sweeper.config.loading import LoadedStudy
from sweeper.config.served_students import may_serve_students
from sweeper.execution.executor import Finished
from sweeper.foundation.secrets import redact, secrets_in
from sweeper.records import PreparationSpec, SuiteSpec
from sweeper.records.layout import StudyPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.text.teacher_gap import teacher_gap_sentence
from sweeper.search.arm_search import ArmSearch
from sweeper.search.storage import Storage, close_storage, open_storage, reach_storage
from sweeper.study import confirmation, preparation
from sweeper.study.arms import ArmState, TrialRecorder
from sweeper.study.budgets import trial_budgets
from sweeper.study.collaborators import Collaborators, Phase
from sweeper.study.early_stopping import StoppingRule, StopReason
from sweeper.study.engines import read_engines
from sweeper.study.faulty_devices import FaultyDevices
from sweeper.study.final_scores import read_test_baselines
from sweeper.study.interrupts import Interrupted
from sweeper.study.jobs import Jobs, RunningJob
from sweeper.study.manifest import StudyManifest, suite_spec, version_changes
from sweeper.study.pair import read_pair
from sweeper.study.preparation_order import (
    Order,
    Step,
    own_teacher_steps,
    preparation_order,
    test_order,
)
from sweeper.study.results import read_preparation, read_study, read_teacher_gap
from sweeper.study.served_models import Role, roles_of_step, roles_of_trials
from sweeper.study.served_orders import started_server
from sweeper.study.step_jobs import StepJobs
from sweeper.study.step_queue import StepQueue
from sweeper.study.trial_specs import TrialSpecs
from sweeper.study.trials import Trials

_POLL_SECONDS = 0.25
_PRUNING_POLL_SECONDS = 0.05
"""Seconds between two looks at the jobs while trials may wait for a pruner's decision."""


class Coordinator:
    """One run of ``sweeper run``: owns the study's databases while it lasts."""

    def __init__(
        self,
        study: LoadedStudy,
        paths: StudyPaths,
        manifest: StudyManifest,
        cache: Path,
        collaborators: Collaborators,
    ) -> None:
        self.started = time.time()
        self.phase: Phase = "prepare"
        self.higher_is_better = True
        self.waiting_for: str | None = None
        self.stop = collaborators.stop
        self.jobs = Jobs(collaborators.executor, study.config.compute, collaborators.retry)
        self._study = study
        self._paths = paths
        self._manifest = manifest
        self._collaborators = collaborators
        self._executor = collaborators.executor
        self._tracker = collaborators.tracker
        self._observer = collaborators.observer
        self._retry = collaborators.retry
        self._retry.tell = self._observer.message
        self._retry.while_waiting = self._while_waiting
        self._inputs = preparation.make_study_inputs(study, manifest, cache)
        self._suite = suite_spec(study.selection)
        self._secrets = secrets_in(study.file.values)
        storage = redact(study.config.storage or str(paths.optuna))
        self._devices = FaultyDevices(self._executor, paths.device_faults)
        self._step_jobs = StepJobs(study, paths, collaborators, self.jobs, self._devices)
        self._recorder = TrialRecorder(paths, storage, self._tracker, self._secrets)
        self._trials = self._new_trials()

    def run(self) -> StudyRecord:
        """Do what is left to do, and return the record of the study.

        Raises:
            ConfigError: Data, models, tasks or settings cannot work as written.
            PreflightError: The preflight refuses the study.
            SweeperError: The preparation failed, the teacher's server did, or every device.
            Interrupted: The user stopped it.
        """
        config = self._study.config
        for change in version_changes(self._manifest):
            self._observer.message(change)
        # Connect while the executor gets ready: a new database takes some time.
        self._tracker.connect()
        if config.storage is not None:
            reach_storage(config.storage, self._retry)
        self._check_data()
        self._tracker.open_study(
            self._inputs,
            tuple(config.arms),
            config.sampler.type,
            self._manifest.provenance,
            redact(self._study.path.read_text(encoding="utf-8"), self._secrets),
        )
        self._prepare()
        self._search()
        if config.confirms():
            self._confirm()
        if served := self._collaborators.served:
            # When they ended is part of the record.
            served.serve((), (), self._wait_for, lambda: None)
        return self.record()

    def record(self) -> StudyRecord:
        """Read the study from its files."""
        return read_study(self._paths, self._manifest)

    @property
    def arms(self) -> Mapping[str, ArmState]:
        """Arms of the current phase; none before the search."""
        return self._trials.arms

    def stop_reason(self, arm: str) -> StopReason | None:
        """Return the limit of the study's budget that keeps an arm from starting a trial now."""
        return self._trials.stop_reason(arm)

    # Phases

    def _check_data(self) -> None:
        self._run_steps({"data": ()}, trials_left=self._has_trials_left())
        if outcome := read_outcome(self._paths.preparation("data")):
            self._collaborators.preflight(outcome)

    def _prepare(self) -> None:
        steps = own_teacher_steps(self._study.config)
        of_teachers = {"teacher": "", **{step: arm for arm, step in reversed(steps.items())}}
        before = {step: read_teacher_gap(self._paths, step) for step in of_teachers}
        self._run_steps(self._later_steps(), trials_left=self._has_trials_left())
        for step, arm in of_teachers.items():
            gap = read_teacher_gap(self._paths, step)
            if gap is not None and gap != before[step] and not is_better(gap):
                self._observer.message(teacher_gap_sentence(gap, arm))
        prepared = read_preparation(self._paths)
        if prepared.data:
            self._tracker.log_data(prepared.data)
        if prepared.teacher:
            self._tracker.log_baseline("teacher", prepared.teacher)
        if prepared.starting_student:
            self._tracker.log_baseline("starting_student", prepared.starting_student)
        if tested := read_engines(self._paths):
            self._tracker.log_engines(tested)
        if pair := read_pair(self._paths, self._manifest.config, self._manifest.files):
            self._tracker.log_pair(pair)

    def _search(self) -> None:
        config = self._study.config
        scores = read_preparation(self._paths).scores
        self.higher_is_better = scores.higher_is_better if scores else True
        self.phase = "search"
        devices = config.compute.devices_per_trial
        rule = StoppingRule(config.arms, config.budget, devices, self.higher_is_better)
        self._trials = self._new_trials(rule=rule)
        storage = open_storage(config.storage or self._paths.optuna, self._retry)
        try:
            self._open_arms(storage, self._trials)
            self._run_trials(self._trials)
        finally:
            close_storage(storage)

    def _open_arms(self, storage: Storage, trials: Trials) -> None:
        config = self._study.config
        # Another study of this name may be in the same database.
        known_as = f"{config.study}@{self._manifest.identity}" if config.storage else config.study
        budgets = trial_budgets(config.arms, config.trials, config.sampler, config.budget.trials)
        for name, budget in budgets.items():
            arm = config.arms[name]
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
                start_with=self._manifest.start_with.get(name, ()),
                retry=self._retry,
            )
            spaces = {key: space.model_dump(mode="json") for key, space in arm.search.items()}
            self._tracker.open_arm(name, arm.method, budget, arm.settings, spaces)
            # With nothing to search there is nothing to prune.
            points = enumerate(config.pruner.points()) if arm.search else ()
            trials.add(ArmState(name, arm.method, budget, search, interim=tuple(points)))

    def _confirm(self) -> None:
        """Train the winners again with new seeds, and score them on the test suite, once."""
        config = self._study.config
        assert self._study.test is not None
        record = self.record()
        if not any(scored_trials(arm) for arm in record.arms):
            return
        suite = suite_spec(self._study.test)
        plan = confirmation.open_plan(
            config.confirm,
            config.compare_at,
            record,
            suite.content_hash,
            self._paths,
            config.compare,
        )
        self.phase = "confirm"
        self._trials = self._new_trials(test_suite=suite)
        for arm in confirmation.confirmation_arms(plan, record, self._paths):
            self._trials.add(arm)
        serves = started_server(config) is not None or may_serve_students(config)
        if serves and self._trials.any_left():
            # These runs cannot ask servers for what someone has removed from the cache.
            self._run_steps(self._later_steps(), trials_left=True)
        self._run_steps(test_order(config), trials_left=False)
        for role, outcome in read_test_baselines(self._paths).items():
            self._tracker.log_baseline(role, outcome, test=True)
        self._run_trials(self._trials)

    def _new_trials(
        self, rule: StoppingRule | None = None, test_suite: SuiteSpec | None = None
    ) -> Trials:
        config = self._study.config
        specs = TrialSpecs(
            config.arms,
            self._inputs,
            self._suite,
            config.training,
            config.compute,
            config.pruner.documents,
            test_suite,
        )
        return Trials(
            self._paths,
            specs,
            self.jobs,
            self._recorder,
            self._collaborators,
            self._devices,
            rule,
        )

    # Steps of the preparation, and trials

    def _later_steps(self) -> dict[Step, tuple[Step, ...]]:
        """Return the steps between the data's and the search, each with those that it needs."""
        served = self._collaborators.served
        place = self._executor.next_resources(self._paths.directory)
        alone = place.device.startswith("cuda") and place.sharing == 1
        order = preparation_order(
            self._study.config,
            students_served=served is not None and served.students,
            own_devices=alone and self._executor.free() > 1,
        )
        del order["data"]
        return order

    def _run_steps(self, order: Order, *, trials_left: bool) -> None:
        """Run the steps that are not done yet, each as soon as those that it needs have ended."""
        steps = StepQueue(
            order, self._study, self._suite, self._paths, self._inputs, trials_left=trials_left
        )
        while steps or self.jobs.running:
            if steps.look():
                asking = [*steps.ready, *(job.spec for job in self.jobs.running.values())]
                names = [spec.step for spec in asking if isinstance(spec, PreparationSpec)]
                roles = [roles_of_step(self._study.config, name) for name in names]
                self._serve(frozenset().union(*roles), len(names))
            self._check_stop()
            if self.stop.level and not self.jobs.running:
                raise Interrupted
            if steps and not self.jobs.running:
                self._devices.check()
            while self.stop.level == 0 and self._step_jobs.start_one(steps.ready):
                pass
            for finished, job in self._wait() if steps or self.jobs.running else ():
                if again := self._step_jobs.try_elsewhere(finished, job):
                    steps.ready.append(again)
                else:
                    steps.ended(self._step_jobs.finish(finished))
        self._inputs = preparation.with_results(self._inputs, tuple(order), self._paths)

    def _has_trials_left(self) -> bool:
        return any(
            arm.stopped is None and sum(bool(t.outcome) for t in arm.trials) < arm.budget
            for arm in self.record().arms
        )

    def _run_trials(self, trials: Trials) -> None:
        self._serve(self._roles_of_trials() if trials.any_left() else ())
        while True:
            if self.stop.level == 0:
                trials.fill()
                if not self.jobs.running and trials.any_left():
                    self._devices.check()
            # Without a job, trials may still wait for a node: nodes come and go.
            if not self.jobs.running and not (self.stop.level == 0 and trials.any_left()):
                self._observer.update(self)
                self._check_stop()
                return
            for finished, job in self._wait():
                if failure := trials.finish(finished, job):
                    raise preparation.stopped_by(self._study, failure)

    # Served models

    def _serve(self, roles: Collection[Role], jobs: int | None = None) -> None:
        """Have the servers of ``roles`` up, and no other that trials do not ask.

        Raises:
            ServerError: One cannot be started.
        """
        if served := self._collaborators.served:
            keep = self._roles_of_trials()
            served.serve(roles, keep, self._wait_for, self._while_starting, jobs)

    def _wait_for(self, what: str | None) -> None:
        self.waiting_for = what
        self._observer.update(self)

    def _roles_of_trials(self) -> frozenset[Role]:
        return roles_of_trials(self._study.config, self._inputs.rollout_engine)

    def _while_starting(self) -> None:
        self._tell_of_servers()
        self._observer.update(self)
        if self.stop.level:
            raise Interrupted

    def _tell_of_servers(self) -> None:
        """Print what happened to the servers."""
        if served := self._collaborators.served:
            for line in served.messages():
                self._observer.message(line)

    def _check_servers(self) -> None:
        """Print what happened to the servers; raise a ``ServerError`` if one is gone."""
        self._tell_of_servers()
        if served := self._collaborators.served:
            served.check()

    # Waiting and stopping

    def _wait(self) -> list[tuple[Finished, RunningJob]]:
        prunes = any(arm.interim for arm in self.arms.values())
        seconds = _PRUNING_POLL_SECONDS if prunes else _POLL_SECONDS
        ended = self.jobs.wait(seconds, self._trials.log)
        self._check_servers()
        self._observer.update(self)
        if self.stop.level >= 2:
            self._check_stop()
        return ended

    def _while_waiting(self) -> None:
        """Keep the display and the user's signals alive while a database does not answer."""
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
        if self.phase == "prepare" or self.jobs.running or self._trials.any_left():
            raise Interrupted
