"""The record of a study, read from ``runs`` for reports; needs no torch."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from sweeper.analysis.server_costs import ServerCosts, Shares, charge, share_out
from sweeper.analysis.teacher_gap import measure_teacher_gap
from sweeper.config.arms import ArmConfig
from sweeper.config.loading import load_study
from sweeper.config.names import is_name
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.foundation.errors import ConfigError, Problem
from sweeper.records import DataSummary, Outcome, Scores, ServerRecord, archive
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.outcome_files import read_completed, read_state
from sweeper.records.study_record import (
    ArmRecord,
    Plan,
    ScoredDocument,
    StudyRecord,
    TeacherGap,
    TrialRecord,
)
from sweeper.study.budgets import device_seconds, summarize, trial_budgets
from sweeper.study.early_stopping import StoppingRule
from sweeper.study.engines import read_engines
from sweeper.study.faulty_devices import read_device_faults
from sweeper.study.final_scores import (
    read_confirmation,
    read_confirmation_runs,
    read_curve,
    read_documents,
    read_plan,
)
from sweeper.study.manifest import StudyManifest, read_manifest
from sweeper.study.pair import read_pair
from sweeper.study.preparation_order import ANSWERS, own_teacher_steps
from sweeper.study.server_costs import job_key, read_jobs, read_servers

MOST_COLLAPSED = 8
"""Most trials of an arm that collapsed whose training curves are read."""


@dataclass(frozen=True)
class Preparation:
    """Results of the preparation, as far as it was completed."""

    data: DataSummary | None
    teacher: Outcome | None
    starting_student: Outcome | None
    answers: Outcome | None
    """The teacher's answers, where they are a step of their own."""

    def charged(self, paths: StudyPaths, shares: Mapping[str, Shares]) -> Preparation:
        """Return the results with the jobs' shares of the servers' costs."""
        return replace(
            self,
            teacher=_charged(self.teacher, paths.preparation("teacher"), shares),
            starting_student=_charged(self.starting_student, paths.preparation("student"), shares),
        )

    @property
    def scores(self) -> Scores | None:
        """Scores of either model."""
        ends = (self.teacher, self.starting_student)
        return next((end.scores for end in ends if end and end.scores), None)


def read_preparation(paths: StudyPaths) -> Preparation:
    """Read the results of the steps before the trials."""
    data = read_completed(paths.preparation("data"))
    return Preparation(
        data=data.data if data else None,
        teacher=read_completed(paths.preparation("teacher")),
        starting_student=read_completed(paths.preparation("student")),
        answers=read_completed(paths.preparation(ANSWERS)),
    )


def read_teacher_gap(paths: StudyPaths, step: str = "teacher") -> TeacherGap | None:
    """Read how much better a teacher is than the starting student, once both were scored.

    ``step`` of the preparation scored the teacher.
    """
    files = [paths.preparation(name) for name in (step, "student")]
    ends = [read_completed(each) for each in files]
    teacher, student = (end.scores if end else None for end in ends)
    if teacher is None or student is None:
        return None
    if (teacher.suite_hash, teacher.dtype) != (student.suite_hash, student.dtype):
        return None
    return measure_teacher_gap(teacher, student, *map(selection_documents, files))


def selection_documents(files: JobPaths) -> list[ScoredDocument]:
    """Read a model's score on each document of the selection suite.

    Return none of a file that is damaged, or from a version that wrote fewer keys.
    """
    try:
        return read_documents(files.documents)
    except (LookupError, TypeError, ValueError):
        return []


def read_study(paths: StudyPaths, manifest: StudyManifest) -> StudyRecord:
    """Read the study with every trial that exists."""
    config = manifest.config
    plan = read_plan(paths)
    budgets = trial_budgets(config.arms, config.trials, config.sampler, config.budget.trials)
    seconds = device_seconds(config.arms, config.budget)
    steps = own_teacher_steps(config)
    arms = tuple(
        _read_arm(
            paths,
            name,
            arm,
            plan,
            budget=budgets[name],
            device_seconds=seconds[name],
            teacher_step=steps.get(name),
        )
        for name, arm in config.arms.items()
    )
    prepared = read_preparation(paths)
    servers = read_servers(paths)
    if servers:
        servers, shares = _shared(paths, servers, arms)
        arms = tuple(_charged_arm(paths, arm, shares) for arm in arms)
        prepared = prepared.charged(paths, shares)
    ended = {
        arm.name: {trial.number: summarize(trial.outcome) for trial in arm.trials if trial.outcome}
        for arm in arms
    }
    outcomes = [trial.outcome for arm in arms for trial in arm.trials if trial.outcome]
    scored = prepared.scores or next((o.scores for o in outcomes if o.scores), None)
    higher = scored.higher_is_better if scored else True
    rule = StoppingRule(config.arms, config.budget, config.compute.devices_per_trial, higher)
    arms = tuple(
        arm.model_copy(update={"stopped": rule.reason(arm.name, ended)})
        if len(ended[arm.name]) < arm.budget
        else arm
        for arm in arms
    )
    provenance = manifest.provenance.model_copy(
        update={"data_fingerprint": prepared.data.fingerprint if prepared.data else None}
    )
    return StudyRecord(
        study=config.study,
        config=manifest.written or config.model_dump(mode="json", exclude_unset=True),
        provenance=provenance,
        arms=arms,
        teacher=prepared.teacher,
        starting_student=prepared.starting_student,
        answers=prepared.answers,
        data=prepared.data,
        selection=_selection_tasks(
            files for name in config.arms for _, files in paths.trials(name)
        ),
        higher_is_better=higher,
        lead=read_teacher_gap(paths),
        pair=read_pair(paths, config, manifest.files),
        engines=tested.engines if (tested := read_engines(paths)) else None,
        device_defaults=manifest.device_defaults,
        servers=servers,
        device_faults=read_device_faults(paths),
        test=read_confirmation(paths, plan, arms, higher_is_better=higher) if plan else None,
    )


def _shared(
    paths: StudyPaths, servers: Sequence[ServerRecord], arms: Iterable[ArmRecord]
) -> ServerCosts:
    """Share the servers' costs out among the jobs, of which the trials' outcomes are read."""
    known = {
        job_key(paths.trial(arm.name, trial.number)): trial.outcome
        for arm in arms
        for trial in arm.trials
        if trial.outcome
    }
    return share_out(servers, read_jobs(paths, known))


def _charged_arm(paths: StudyPaths, arm: ArmRecord, shares: Mapping[str, Shares]) -> ArmRecord:
    trials = (
        each.model_copy(
            update={"outcome": _charged(each.outcome, paths.trial(arm.name, each.number), shares)}
        )
        for each in arm.trials
    )
    finals = (
        each.model_copy(
            update={
                "outcome": _charged(
                    each.outcome, paths.confirmation_run(arm.name, each.number), shares
                )
            }
        )
        for each in arm.finals
    )
    return arm.model_copy(update={"trials": tuple(trials), "finals": tuple(finals)})


def _charged(
    outcome: Outcome | None, files: JobPaths, shares: Mapping[str, Shares]
) -> Outcome | None:
    return outcome and charge(outcome, shares.get(job_key(files), {}))


def _read_arm(
    paths: StudyPaths,
    name: str,
    arm: ArmConfig,
    plan: Plan | None,
    *,
    budget: int,
    device_seconds: float | None,
    teacher_step: str | None,
) -> ArmRecord:
    trials = [
        trial
        for number, files in paths.trials(name)
        if (trial := _read_trial(number, files)) is not None
    ]
    shown = _shown(trials) if arm.method == "gkd" else set()
    return ArmRecord(
        name=name,
        method=arm.method,
        budget=budget,
        device_hours=None if device_seconds is None else device_seconds / 3600,
        settings=arm.settings,
        search={key: space.model_dump(mode="json") for key, space in arm.search.items()},
        trials=tuple(
            trial.model_copy(update={"curve": read_curve(paths.trial(name, trial.number))})
            if trial.number in shown
            else trial
            for trial in trials
        ),
        finals=() if plan is None else read_confirmation_runs(paths, name, plan),
        teacher=read_completed(paths.preparation(teacher_step)) if teacher_step else None,
        lead=read_teacher_gap(paths, teacher_step) if teacher_step else None,
    )


def _shown(trials: Sequence[TrialRecord]) -> set[int]:
    """Return the numbers of the trials whose curves a report shows: collapsed ones, and the best.

    A study may have thousands of trials, so not all curves are read.
    """
    collapsed = [trial.number for trial in trials if trial.outcome and trial.outcome.collapse]
    scored = {
        trial.number: scores.score if scores.higher_is_better else -scores.score
        for trial in trials
        if trial.state == "completed" and trial.outcome and (scores := trial.outcome.scores)
    }
    best = [max(scored, key=scored.__getitem__)] if scored else []
    return {*collapsed[-MOST_COLLAPSED:], *best}


def _read_trial(number: int, files: JobPaths) -> TrialRecord | None:
    try:
        # The spec is plain JSON here: validating all of it would dominate large studies.
        spec: dict[str, Any] = from_json(files.spec.read_bytes())
        params, settings, enqueued = spec["params"], spec["settings"], spec.get("enqueued")
    except (OSError, ValueError, LookupError, TypeError):
        return None
    state, outcome = read_state(files)
    return TrialRecord(
        number=number,
        state=state,
        params=params,
        settings=settings,
        outcome=outcome,
        enqueued=enqueued,
    )


def _selection_tasks(trials: Iterable[JobPaths]) -> tuple[SuiteTask, ...]:
    """Return the tasks of the selection suite, as the spec of a trial has them."""
    for files in trials:
        with suppress(OSError, ValueError, LookupError, TypeError):
            suite = from_json(files.spec.read_bytes())["suite"]["config"]
            return SuiteConfig.model_validate(suite).tasks
    return ()


def record_of_study(paths: StudyPaths, named: Path) -> StudyRecord:
    """Return the record of the study that a user named by its file or folder.

    Raises:
        ConfigError: The study has not been run.
    """
    manifest = read_manifest(paths)
    if manifest is None:
        message = f"the study {paths.study!r} has not been run: nothing in {paths.directory}"
        raise ConfigError([Problem(source=str(named), message=message)])
    # None of ten thousand trials is garbage: the search for it is a quarter of the command's time.
    gc.disable()
    try:
        return read_study(paths, manifest)
    finally:
        gc.freeze()
        gc.enable()


def find_record(named: Path, runs: Path) -> StudyRecord:
    """Return the record of the study that a user named.

    The user names a study file, whose study is in ``runs``; ``records.json.gz`` of a report; a
    report's folder with such a file; or a study's own folder below another ``runs``.

    Raises:
        ConfigError: There is no record, or it is damaged.
    """
    if named.is_dir():
        if (named / archive.NAME).is_file():
            return archive.read_records(named / archive.NAME)
        place = named.resolve()
        paths = StudyPaths(place.parent, place.name) if is_name(place.name) else None
        if paths is None or not paths.manifest.is_file():
            message = (
                "expected the folder of a report or of a study that was run, found neither"
                f" {archive.NAME} nor study.json in it"
            )
            raise ConfigError([Problem(source=str(named), message=message)])
        return record_of_study(paths, named)
    if named.suffix == ".gz":
        return archive.read_records(named)
    return record_of_study(StudyPaths(runs, load_study(named).config.study), named)


def find_records(named: Sequence[Path], runs: Path) -> list[StudyRecord]:
    """Return the records of several studies, each found as ``find_record`` does.

    Raises:
        ConfigError: A record is missing or damaged, there are fewer than two, or two are the same.
    """
    if len(named) < 2:
        message = f"expected two studies or more to compare, found {len(named)}"
        raise ConfigError([Problem(source=str(named[0]), message=message)])
    records = [find_record(path, runs) for path in named]
    identities = [(record.study, record.provenance.started) for record in records]
    for number, identity in enumerate(identities):
        if (first := identities.index(identity)) < number:
            message = f"expected another study, found the one of {named[first]} again"
            raise ConfigError([Problem(source=str(named[number]), message=message)])
    return records


def all_failed(record: StudyRecord) -> bool:
    """Return whether the study has trials, and every one of them failed."""
    trials = [trial for arm in record.arms for trial in arm.trials]
    return bool(trials) and all(trial.state == "failed" for trial in trials)
