"""A probe of a study: its pair, and a cheap and an expensive trial of each arm for a few steps.

The study's own executor and jobs prepare the study and start the trials. A trial is ended as a
pruner ends one. Everything lies in a temporary directory, but for the diagnosis of the pair, which
is recorded with the study. The study can reuse what the cache keeps of the preparation: the warm
start, the teacher's outputs and states.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from sweeper.analysis.timing import ArmTiming, StudyTiming, TrialTiming
from sweeper.commands.check.cost_range import cost_range
from sweeper.commands.check.measured_times import timing_of_probe
from sweeper.config.base import Scalar
from sweeper.config.collapse import CollapseConfig
from sweeper.config.loading import LoadedStudy
from sweeper.config.scoring_engine import teacher_is_scored
from sweeper.config.settings import Method
from sweeper.execution.executor import Busy, Executor, Finished, Spec
from sweeper.foundation.database_retry import Retry
from sweeper.foundation.errors import SweeperError
from sweeper.foundation.files import read_json_lines, write_text_atomically
from sweeper.foundation.scratch import remove_abandoned, scratch
from sweeper.foundation.secrets import redacted_json
from sweeper.records import (
    Failure,
    IntermediatePoint,
    PreparationSpec,
    Progress,
    Resources,
    Scores,
    TrialSpec,
)
from sweeper.records.layout import StudyPaths
from sweeper.records.outcome_files import read_completed
from sweeper.records.study_record import TeacherGap
from sweeper.reporting.live import ArmProgress, LiveDisplay, LiveState
from sweeper.reporting.text import formatting
from sweeper.search.arm_search import Asked
from sweeper.study import pair, preparation, retries
from sweeper.study.device_precision import kinds_of, with_precision
from sweeper.study.executors import make_executor
from sweeper.study.jobs import Jobs, RunningJob, answer
from sweeper.study.manifest import (
    command_line,
    input_files,
    input_hashes,
    open_manifest,
    read_manifest,
    suite_spec,
)
from sweeper.study.preparation_order import Step, own_teacher_steps, preparation_order, waves
from sweeper.study.progress import running_job, step_name
from sweeper.study.results import read_teacher_gap
from sweeper.study.served import make_served
from sweeper.study.served_models import (
    Role,
    roles_of_step,
    roles_of_trials,
    trial_devices,
)
from sweeper.study.trial_specs import TrialSpecs

STEPS = 6
"""Optimiser steps of a trial; the first is not counted."""
_SCORING = 10.0
"""Seconds that scoring the student may take; of a suite that takes longer, a part is scored."""
_POLL_SECONDS = 0.05
_PREFIX = ".sweeper-probe-"
"""Prefix of the directory where a probe works."""


class ProbeResult(NamedTuple):
    """Measurements of a probe."""

    gaps: dict[str, TeacherGap]
    """Difference between a teacher's score and the starting student's: of an arm's own by its arm,
    of the study's by an empty name."""
    timing: StudyTiming
    notes: tuple[str, ...] = ()
    """What could not be measured, and why."""


def probe(
    study: LoadedStudy, recorded: StudyPaths, cache: Path, out: Console, *, begun: float
) -> ProbeResult:
    """Prepare the study, and do a few steps of each arm.

    Args:
        study: The checked study file.
        recorded: Directory of the study. Steps of the preparation that it has done are reused.
        cache: The content-addressed cache.
        out: Shows the progress.
        begun: Time at which this process began to load libraries, in seconds since the epoch.

    Raises:
        ConfigError: Data, models, tasks or settings cannot work as written.
        SweeperError: A job failed.
    """
    # A cluster's nodes share the cache, and perhaps nothing else.
    shared = study.config.compute.executor != "local"
    cache.mkdir(parents=True, exist_ok=True)
    remove_abandoned(_PREFIX, cache)
    with scratch(_PREFIX, cache if shared else None) as directory:
        paths = StudyPaths(directory, study.config.study)
        paths.directory.mkdir()
        files, devices = input_files(study), trial_devices(study)
        executor = make_executor(study.config.compute, paths, cache, files, study.file, devices)
        with executor, LiveDisplay(out) as display:
            if study.device_defaults is None:
                study, _ = with_precision(study, recorded, kinds_of(study, executor))
            return _Probe(study, recorded, paths, cache, executor, display).run(begun)


class _Probe:
    """One probe of a study, which works in ``paths``; ``recorded`` is the study's own directory."""

    def __init__(
        self,
        study: LoadedStudy,
        recorded: StudyPaths,
        paths: StudyPaths,
        cache: Path,
        executor: Executor,
        display: LiveDisplay,
    ) -> None:
        self._study, self._recorded, self._paths = study, recorded, paths
        self._executor, self._display = executor, display
        # Nodes of a cluster may be busy now.
        self._workers = max(executor.free(), 1)
        self._jobs = Jobs(executor, study.config.compute, Retry())
        self._suite = suite_spec(study.selection)
        threads = executor.next_resources(paths.directory).threads
        # The threads of a study that has begun are in the keys of what the cache keeps for it.
        manifest = read_manifest(recorded) or open_manifest(study, paths, command_line(), threads)
        self._inputs = preparation.make_study_inputs(study, manifest, cache)
        self._served = make_served(study, paths, manifest, executor)
        self._waiting_for: str | None = None
        self._started = time.time()
        self._params: dict[str, list[dict[str, Scalar]]] = {}
        """Settings of each arm's trials, the most expensive first."""
        for name, arm in study.config.arms.items():
            cheapest, most_expensive = cost_range(arm)
            self._params[name] = [most_expensive, *([cheapest] * (cheapest != most_expensive))]
        self._scored = 1
        """Documents of each task that a trial is scored on."""
        self._documents = 0
        """Documents of the selection suite, including tasks of weight 0."""
        self._seconds: dict[str, float] = {}
        """Seconds of each step of the preparation."""
        self._rows: dict[str, list[Progress]] = {}
        """Progress of trials, by their directories."""
        self._timings: dict[str, dict[int, TrialTiming]] = {}
        """Trials that ended, by arm and number, once the study is prepared."""
        self._notes: list[str] = []

    def run(self, begun: float) -> ProbeResult:
        """Prepare the study and measure its trials; see ``probe``."""
        with self._served:
            return self._measure(begun)

    def _measure(self, begun: float) -> ProbeResult:
        students = self._served.students
        for group in waves(preparation_order(self._study.config, students_served=students)):
            steps = [step for step in group if not self._take_over(step)]
            roles = [roles_of_step(self._study.config, step) for step in steps]
            self._serve(frozenset().union(*roles), len(steps))
            self._work([partial(self._submit_step, step) for step in steps])
            self._inputs = preparation.with_results(self._inputs, group, self._paths)
        config = self._study.config
        served = config.teacher.server is not None
        known = served or pair.read_pair(self._recorded, config, input_hashes(self._study))
        if not known:
            self._work([partial(self._submit_step, pair.STEP)])
        # Libraries that are loaded already cost the study's first step more.
        self._seconds["data"] = max(self._seconds["data"], self._started - begun)
        teacher, student = (
            read_completed(self._paths.preparation(step)) for step in ("teacher", "student")
        )
        has_score = teacher_is_scored(config.teacher, config.evaluation)
        assert teacher and (not has_score or teacher.scores) and student and student.scores
        tasks = self._plan_scoring(student.scores)
        self._timings = {name: {} for name in self._params}
        self._serve(self._roles_of_trials())
        # The most expensive trials come first: they show what does not work at all.
        trials = [
            (name, number, params[number])
            for number in (0, 1)
            for name, params in self._params.items()
            if number < len(params)
        ]
        self._work([partial(self._submit_trial, *trial) for trial in trials])
        timing = StudyTiming(
            workers=self._workers,
            device=teacher.device,
            preparation=self._seconds,
            teacher_scoring=teacher.scores.seconds if teacher.scores else 0.0,
            documents=self._documents,
            tasks=tasks,
            arms=tuple(
                ArmTiming(arm=name, method=method, lightest=trials[max(trials)], heaviest=trials[0])
                for name, method, trials in self._arms()
            ),
        )
        scored = {"": "teacher", **own_teacher_steps(self._study.config)}
        found = {arm: read_teacher_gap(self._paths, step) for arm, step in scored.items()}
        gaps = {arm: gap for arm, gap in found.items() if gap is not None}
        return ProbeResult(gaps, timing, tuple(self._notes))

    def _work(self, waiting: Sequence[Callable[[], None]]) -> None:
        """Do jobs that ``waiting`` submits, as many at a time as in the study.

        Raises:
            SweeperError: A job failed.
        """
        left = deque(waiting)
        while left or self._jobs.running:
            while left and self._executor.free():
                try:
                    left[0]()
                except Busy:
                    break
                left.popleft()
                self._jobs.notice()
            for finished, job in self._jobs.wait(_POLL_SECONDS, self._hear):
                self._settle(finished, job)
            self._served.check()
            self._show()

    def _settle(self, finished: Finished, job: RunningJob) -> None:
        spec, outcome = finished.spec, finished.outcome
        if outcome is None or outcome.state == "failed":
            failure = job.given_up or (outcome.failure if outcome else None)
            full = failure is not None and failure.kind == "full_disk"
            if isinstance(spec, PreparationSpec) and spec.step == pair.STEP and not full:
                # The study may work all the same.
                self._notes.append(failure.told() if failure else finished.reason)
                return
            raise self._failed(spec, failure, finished.reason)
        if isinstance(spec, PreparationSpec):
            if spec.step == pair.STEP:
                # Now: it is of use also if a trial fails.
                pair.keep(job.files, self._recorded)
            else:
                self._seconds[spec.step] = time.time() - job.started
            return
        rows = self._rows[spec.place.directory]
        timing = timing_of_probe(rows, job.started, self._documents, spec.params)
        timing = timing.model_copy(update={"peak_bytes": outcome.peak_bytes})
        self._timings[spec.arm][spec.number] = timing

    def _failed(self, spec: Spec, failure: Failure | None, reason: str) -> SweeperError:
        if failure is not None and failure.kind in retries.UNSPENT:
            return preparation.stopped_by(self._study, failure)
        if isinstance(spec, PreparationSpec):
            what = f"the preparation ({spec.step})"
        else:
            what = f"a trial of the arm {spec.arm} ({formatting.settings(spec.params)})"
        return SweeperError(f"{what} failed: {failure.told() if failure else reason}")

    # Preparation

    def _take_over(self, step: Step) -> bool:
        """Reuse a step that the study has done itself; return False if it has not."""
        if step == "data":
            # It costs next to nothing, and measures how long the libraries take to load.
            return False
        files = self._paths.preparation(step)
        done = preparation.is_done(self._make_spec(step), self._recorded)
        if not (done and preparation.is_cached(step, self._recorded)):
            return False
        shutil.copytree(self._recorded.preparation(step).directory, files.directory)
        outcome = read_completed(files)
        assert outcome is not None
        self._seconds[step] = outcome.finished - outcome.started
        return True

    def _make_spec(self, step: Step) -> PreparationSpec:
        files = self._paths.preparation(step)
        return preparation.make_spec(self._study, self._inputs, self._suite, step, files)

    def _submit_step(self, step: Step) -> None:
        preparation.submit(self._make_spec(step), self._executor, self._place)

    def _place(self, directory: Path) -> Resources:
        return self._served.place(self._executor.next_resources(directory))

    def _serve(self, roles: Collection[Role], jobs: int | None = None) -> None:
        self._served.serve(roles, self._roles_of_trials(), self._wait_for, self._show, jobs)

    def _roles_of_trials(self) -> frozenset[Role]:
        return roles_of_trials(self._study.config, self._inputs.rollout_engine)

    def _wait_for(self, what: str | None) -> None:
        self._waiting_for = what
        self._show()

    def _plan_scoring(self, scores: Scores) -> int:
        """Decide how much of the suite a trial is scored on; return its number of tasks."""
        rows, _ = read_json_lines(self._paths.preparation("student").documents)
        sizes = Counter(row["task"] for row in rows)
        self._documents = sum(sizes.values())
        self._scored = max(sizes.values())
        if scores.seconds > _SCORING:
            # Whole batches: one that is not full takes as long.
            size = self._study.config.evaluation.batch_size
            batches = self._documents * _SCORING / scores.seconds / size
            self._scored = math.ceil(max(1, round(batches)) * size / len(sizes))
        return len(sizes)

    # Trials

    def _submit_trial(self, arm: str, number: int, params: dict[str, Scalar]) -> None:
        files = self._paths.trial(arm, number)
        config = self._study.config
        specs = TrialSpecs(config.arms, self._inputs, self._suite, config.training, config.compute)
        spec = specs.next(arm, Asked(number, params), self._place(files.directory), files)
        step = min(STEPS, spec.settings.max_steps)
        point = IntermediatePoint(index=0, step=step, documents=self._scored)
        settings = spec.settings.model_copy(update={"logging_steps": 1, "checkpoint_every": None})
        # A probe measures time; what it samples is not judged.
        origin = spec.origin.model_copy(update={"collapse": CollapseConfig()})
        spec = spec.model_copy(update={"settings": settings, "interim": (point,), "origin": origin})
        write_text_atomically(files.spec, redacted_json(spec))
        self._executor.submit(spec)

    def _hear(self, spec: TrialSpec, rows: Sequence[Progress]) -> None:
        self._rows.setdefault(spec.place.directory, []).extend(rows)
        for score in (row.interim for row in rows if row.interim):
            answer(spec, score, False)

    def _arms(self) -> Iterator[tuple[str, Method, dict[int, TrialTiming]]]:
        for name, timings in self._timings.items():
            yield name, self._study.config.arms[name].method, timings

    def _show(self) -> None:
        jobs = list(self._jobs.running.values())
        steps = [job for job in jobs if isinstance(job.spec, PreparationSpec)]
        self._display.update(
            LiveState(
                study=self._study.config.study,
                started=self._started,
                arms=tuple(
                    ArmProgress(name, method, budget=len(self._params[name]), done=len(timings))
                    for name, method, timings in self._arms()
                ),
                running=tuple(running_job(job, time.time()) for job in jobs),
                preparation=self._waiting_for or ", ".join(map(step_name, steps)) or None,
                noun="probes",
            )
        )
