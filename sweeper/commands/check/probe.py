"""What a study's trials take, from a few real steps of each arm.

The study is prepared and its trials are begun by its own executor and its own jobs. Each trial is
ended after a few steps, as a pruner ends one. Everything is in a temporary directory; what the
cache keeps of the preparation (warm start, the teacher's outputs and states) need not be made again
when the study is run.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from sweeper.analysis.timing import ArmTiming, StudyTiming, TrialTiming
from sweeper.commands.check.cost_range import ends
from sweeper.commands.check.measured_times import seconds_by_phase, timing_of_probe
from sweeper.config.base import Scalar
from sweeper.config.loading import LoadedStudy
from sweeper.execution.executor import Busy, Executor, Finished, Spec
from sweeper.foundation.errors import SweeperError
from sweeper.foundation.files import read_json_lines, write_text_atomically
from sweeper.foundation.retry import Retry
from sweeper.foundation.scratch import remove_abandoned, scratch
from sweeper.foundation.secrets import redacted_json
from sweeper.records import Failure, IntermediatePoint, PreparationSpec, Progress, Scores, TrialSpec
from sweeper.records.layout import StudyPaths
from sweeper.records.outcome_files import read_completed
from sweeper.records.study_record import TeacherGap
from sweeper.reporting.live import ArmProgress, LiveDisplay, LiveState
from sweeper.reporting.text import formatting
from sweeper.search.arm_search import Asked
from sweeper.study import preparation, retries
from sweeper.study.executors import make_executor
from sweeper.study.jobs import Jobs, RunningJob, answer
from sweeper.study.manifest import (
    command_line,
    input_files,
    open_manifest,
    read_manifest,
    suite_spec,
)
from sweeper.study.progress import running_job, step_name
from sweeper.study.results import read_teacher_gap
from sweeper.study.trial_specs import TrialSpecs

FEW, MORE = 4, 20
"""Optimiser steps of a trial, of which the first is not counted; the second if they are short."""
_SHORT_STEP = 0.5
"""Seconds of a step up to which ``MORE`` are done: a few short ones say little."""
_SCORING = 10.0
"""Seconds that scoring the student may take; of a suite that takes longer, a part is scored."""
_SHARED = ("warm start", "teacher outputs", "teacher states")
"""Phases of the preparation whose results the cache keeps for all trials."""
_POLL_SECONDS = 0.05
_PREFIX = ".sweeper-probe-"
"""Of the directory where a probe works."""


class Probed(NamedTuple):
    """What a probe found."""

    lead: TeacherGap | None
    """The teacher's over the starting student, which both were scored."""
    pace: StudyTiming
    """What everything took."""


def probe(
    study: LoadedStudy, recorded: StudyPaths, cache: Path, out: Console, *, begun: float
) -> Probed:
    """Prepare the study, and do a few steps of each arm.

    Args:
        study: The checked study file.
        recorded: Where the study is recorded: what it has prepared there is not done again.
        cache: The content-addressed cache.
        out: Shows how far it is.
        begun: Since when this process has loaded libraries for jobs, which the study will do, too;
            in seconds since the epoch.

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
        executor = make_executor(study.config.compute, paths, cache, input_files(study), study.file)
        with executor, LiveDisplay(out) as display:
            return _Probe(study, recorded, paths, cache, executor, display).run(begun)


class _Probe:
    """One probe of a study.

    Args:
        study: The checked study file.
        recorded: Where the study is, or would be, recorded.
        paths: Where the probe works.
        cache: The content-addressed cache.
        executor: The study's.
        display: Shows how far it is.
    """

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
        snapshot = read_manifest(recorded) or open_manifest(study, paths, command_line(), threads)
        self._origin = preparation.make_study_inputs(study, snapshot, cache)
        self._started = time.time()
        self._ends = {name: ends(arm) for name, arm in study.config.arms.items()}
        self._scored = 1
        """Documents of each task that a trial is scored on."""
        self._documents = 0
        """Of the selection suite, with those of tasks of weight 0."""
        self._seconds: dict[str, float] = {}
        self._parts: dict[str, float] = {}
        self._rows: dict[str, list[Progress]] = {}
        """What trials said, by their directories."""
        self._paces: dict[str, list[TrialTiming]] = {}
        """By arm, once the study is prepared."""

    def run(self, begun: float) -> Probed:
        """Do it all; see ``probe``."""
        for group in preparation.STEPS:
            steps = [step for step in group if not self._take_over(step)]
            self._work([partial(self._submit_step, step) for step in steps])
            self._origin = preparation.with_results(self._origin, group, self._paths)
        # Libraries that are loaded already cost the study's first step more.
        self._seconds["data"] = max(self._seconds["data"], self._started - begun)
        teacher, student = (
            read_completed(self._paths.preparation(step)) for step in ("teacher", "student")
        )
        assert teacher and teacher.scores and student and student.scores
        tasks = self._plan_scoring(student.scores)
        self._paces = {name: [] for name in self._ends}
        # What costs most comes first: what does not work at all shows there.
        asked = [(name, 0, found.heaviest) for name, found in self._ends.items()]
        asked += [
            (name, 1, found.lightest)
            for name, found in self._ends.items()
            if found.lightest != found.heaviest
        ]
        self._work([partial(self._submit_trial, *each) for each in asked])
        pace = StudyTiming(
            basis="probe",
            trials=len(asked),
            workers=self._workers,
            device=teacher.device,
            preparation=self._seconds,
            parts=self._parts,
            teacher_scoring=teacher.scores.seconds,
            documents=self._documents,
            tasks=tasks,
            arms=tuple(self._arm(name) for name in self._ends),
        )
        return Probed(read_teacher_gap(self._paths), pace)

    def _work(self, waiting: Sequence[Callable[[], None]]) -> None:
        """Have jobs done, as many at a time as in the study.

        Args:
            waiting: Each submits a job.

        Raises:
            SweeperError: One failed.
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
            self._show()

    def _settle(self, finished: Finished, job: RunningJob) -> None:
        spec, outcome = finished.spec, finished.outcome
        if outcome is None or outcome.state == "failed":
            failure = job.given_up or (outcome.failure if outcome else None)
            raise self._failed(spec, failure, finished.reason)
        if isinstance(spec, PreparationSpec):
            self._note_step(spec.step, time.time() - job.started)
            return
        rows = self._rows[spec.place.directory]
        found = timing_of_probe(rows, job.started, self._documents, spec.params)
        found = found.model_copy(update={"peak_bytes": outcome.peak_bytes})
        # The heaviest is submitted first, but may end last.
        self._paces[spec.arm].insert(0 if spec.number == 0 else 1, found)

    def _failed(self, spec: Spec, failure: Failure | None, reason: str) -> SweeperError:
        if failure is not None and failure.kind in retries.UNSPENT:
            return preparation.stopped_by(self._study, failure)
        if isinstance(spec, PreparationSpec):
            what = f"the preparation ({spec.step})"
        else:
            what = f"a trial of the arm {spec.arm} ({formatting.settings(spec.params)})"
        return SweeperError(f"{what} failed: {failure.told() if failure else reason}")

    # Preparation

    def _take_over(self, step: preparation.Step) -> bool:
        """Take what the study has found out itself; False if it has not."""
        if step == "data":
            # Done anew it costs next to nothing, and says how long the libraries take to load.
            return False
        files = self._paths.preparation(step)
        spec = preparation.make_spec(self._study, self._origin, self._suite, step, files)
        if not preparation.is_done(spec, self._recorded):
            return False
        if not preparation.is_cached(step, self._recorded):
            return False
        shutil.copytree(self._recorded.preparation(step).directory, files.directory)
        outcome = read_completed(files)
        assert outcome is not None
        self._note_step(step, outcome.finished - outcome.started)
        return True

    def _submit_step(self, step: preparation.Step) -> None:
        files = self._paths.preparation(step)
        spec = preparation.make_spec(self._study, self._origin, self._suite, step, files)
        preparation.submit(spec, files, self._executor)

    def _note_step(self, step: preparation.Step, seconds: float) -> None:
        files = self._paths.preparation(step)
        outcome = read_completed(files)
        assert outcome is not None
        self._seconds[step] = seconds
        lines, _ = read_json_lines(files.progress)
        rows = [Progress.model_validate(line) for line in lines]
        parts = seconds_by_phase(rows, outcome.finished)
        self._parts |= {name: parts[name] for name in _SHARED if name in parts}

    def _plan_scoring(self, scores: Scores) -> int:
        """Decide how much of the suite a trial is scored on; how many tasks the suite has."""
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
        specs = TrialSpecs(config.arms, self._origin, self._suite, config.training, config.compute)
        place = self._executor.next_resources(files.directory)
        spec = specs.next(arm, Asked(number, params), place, files)
        longest = spec.settings.max_steps
        points = [IntermediatePoint(index=0, step=min(FEW, longest), documents=self._scored)]
        if longest > FEW:
            points.append(IntermediatePoint(index=1, step=min(MORE, longest), documents=1))
        settings = spec.settings.model_copy(update={"logging_steps": 1, "checkpoint_every": None})
        spec = spec.model_copy(update={"settings": settings, "interim": tuple(points)})
        write_text_atomically(files.spec, redacted_json(spec))
        self._executor.submit(spec)

    def _hear(self, spec: TrialSpec, rows: Sequence[Progress]) -> None:
        heard = self._rows.setdefault(spec.place.directory, [])
        heard += rows
        for interim in (row.interim for row in rows if row.interim):
            more = interim.index == 0 and len(spec.interim) > 1
            if more:
                # Where it began does not matter here.
                more = timing_of_probe(heard, 0.0, self._documents, {}).step <= _SHORT_STEP
            answer(spec, interim, more)

    def _arm(self, name: str) -> ArmTiming:
        heaviest, lightest = self._paces[name][0], self._paces[name][-1]
        found = self._ends[name]
        return ArmTiming(
            arm=name,
            method=self._study.config.arms[name].method,
            lightest=lightest,
            heaviest=heaviest,
            low=found.low,
            mean=found.mean,
            high=found.high,
        )

    def _show(self) -> None:
        jobs = list(self._jobs.running.values())
        steps = [job for job in jobs if isinstance(job.spec, PreparationSpec)]
        self._display.update(
            LiveState(
                study=self._study.config.study,
                started=self._started,
                arms=tuple(self._progress(name) for name in self._paces),
                running=tuple(running_job(job, time.time()) for job in jobs),
                preparation=", ".join(map(step_name, steps)) or None,
                noun="probes",
            )
        )

    def _progress(self, name: str) -> ArmProgress:
        return ArmProgress(
            name=name,
            method=self._study.config.arms[name].method,
            budget=1 + (self._ends[name].lightest != self._ends[name].heaviest),
            done=len(self._paces[name]),
        )
