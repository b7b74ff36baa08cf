"""What a study left under ``runs``, as one record for the reports; reads only, needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from pydantic_core import from_json

from sweeper.budgets import device_seconds, ending, stop_reason, trial_budgets
from sweeper.config.confirm import CostMeasure
from sweeper.config.study import StudyConfig
from sweeper.errors import ConfigError, Problem, SweeperError
from sweeper.execution.executor import read_outcome
from sweeper.paths import JobPaths, StudyPaths, read_json_lines
from sweeper.records import (
    ArmRecord,
    Confirmation,
    DataSummary,
    Final,
    FinalArm,
    FinalRecord,
    FinalScores,
    Outcome,
    Plan,
    Scores,
    StudyRecord,
    TrialRecord,
)
from sweeper.snapshot import Snapshot
from sweeper.tracking.mapping import Role


@dataclass(frozen=True)
class Preparation:
    """What the preparation found, as far as it was completed."""

    data: DataSummary | None
    teacher: Outcome | None
    starting_student: Outcome | None

    @property
    def scores(self) -> Scores | None:
        """Of either model."""
        ends = (self.teacher, self.starting_student)
        return next((end.scores for end in ends if end and end.scores), None)


def read_preparation(paths: StudyPaths) -> Preparation:
    """What was found out before the study's trials."""
    data = _completed(paths.preparation("data"))
    return Preparation(
        data=data.data if data else None,
        teacher=_completed(paths.preparation("teacher")),
        starting_student=_completed(paths.preparation("student")),
    )


def read_test_baselines(paths: StudyPaths) -> dict[Role, Outcome]:
    """How teacher and starting student did on the test suite, as far as they were scored."""
    steps: dict[Role, str] = {"teacher": "test_teacher", "starting_student": "test_student"}
    found = {role: _completed(paths.preparation(step)) for role, step in steps.items()}
    return {role: outcome for role, outcome in found.items() if outcome is not None}


def read_plan(paths: StudyPaths) -> Plan | None:
    """What is scored on the test suite, if the search has ended.

    Raises:
        ConfigError: The file was damaged.
    """
    try:
        return Plan.model_validate_json(paths.plan.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        message = (
            "expected the plan of what is scored on the test suite, found something else or only a"
            " part of it. Restore it, or remove it to score winners anew."
        )
        raise ConfigError([Problem(source=str(paths.plan), message=message)]) from None


def read_study(paths: StudyPaths, snapshot: Snapshot) -> StudyRecord:
    """The study with every trial that exists.

    Args:
        paths: Where the study is recorded.
        snapshot: Its start.
    """
    config = snapshot.config
    plan = read_plan(paths)
    arms = tuple(_read_arm(paths, config, name, plan) for name in config.arms)
    ended = {
        arm.name: {trial.number: ending(trial.outcome) for trial in arm.trials if trial.outcome}
        for arm in arms
    }
    before = read_preparation(paths)
    outcomes = [trial.outcome for arm in arms for trial in arm.trials if trial.outcome]
    scored = before.scores or next((o.scores for o in outcomes if o.scores), None)
    higher = scored.higher_is_better if scored else True
    arms = tuple(
        arm.model_copy(
            update={
                "stopped": stop_reason(config, arm.name, ended, higher_is_better=higher)
                if len(ended[arm.name]) < arm.budget
                else None
            }
        )
        for arm in arms
    )
    summary = before.data
    provenance = snapshot.provenance.model_copy(
        update={"data_fingerprint": summary.fingerprint if summary else None}
    )
    return StudyRecord(
        study=config.study,
        config=config.model_dump(mode="json", exclude_unset=True),
        provenance=provenance,
        arms=arms,
        teacher=before.teacher,
        starting_student=before.starting_student,
        data=summary,
        higher_is_better=higher,
        test=_read_test(paths, plan, arms, higher) if plan else None,
    )


def _read_test(
    paths: StudyPaths, plan: Plan, arms: Sequence[ArmRecord], higher_is_better: bool
) -> Confirmation:
    ends = read_test_baselines(paths)
    rows: dict[JobPaths, list[_Document]] = {}
    tested, missing = [], []
    for arm in arms:
        for (trial, at), finals in _groups(arm).items():
            done = [final for final in finals if final.state == "completed" and final.outcome]
            if len(done) < len(finals):
                missing.append(
                    f"{arm.name} #{trial}: {len(finals) - len(done)} of {len(finals)} trainings"
                    f" with new seeds (at equal {at.replace('_', ' ')}) have no score."
                )
            if not done:
                continue
            found = []
            for final in done:
                files = paths.final(arm.name, final.number)
                rows[files] = _read_documents(files.test_documents)
                found.append((final, rows[files]))
            tested.append(_tested(arm, trial, at, found))
    steps = {"teacher": "test_teacher", "starting_student": "test_student"}
    baselines = {}
    for role, step in steps.items():
        files = paths.preparation(step)
        if role in ends:
            rows[files] = _read_documents(files.documents)
            baselines[role] = tuple(document.value for document in rows[files])
    suite = next((end.scores.suite for end in ends.values() if end.scores), "")
    first = next(iter(rows.values()), [])
    for files, documents in rows.items():
        if [document.key for document in documents] != [document.key for document in first]:
            raise SweeperError(
                f"{files.directory}: expected scores of the same documents of the test suite as in"
                f" {next(iter(rows)).directory}, found others: they cannot be compared in pairs."
            )
    scores = FinalScores(
        suite=suite,
        higher_is_better=higher_is_better,
        tasks=tuple(document.task for document in first),
        shares=tuple(abs(document.share) for document in first),
        clusters=tuple(document.cluster for document in first),
        arms=_winners_of(tested, higher_is_better),
        teacher=baselines.get("teacher"),
        starting_student=baselines.get("starting_student"),
        looks=plan.looks,
        missing=tuple(missing),
    )
    return Confirmation(plan=plan, scores=scores if tested else None, **ends)


class _Document(NamedTuple):
    task: str
    doc_id: int
    doc_hash: str
    cluster: str
    share: float
    value: float
    """The score as the suite's mean takes it."""

    @property
    def key(self) -> tuple[str, int, str]:
        return self.task, self.doc_id, self.doc_hash


def _read_documents(path: Path) -> list[_Document]:
    rows, _ = read_json_lines(path)
    return [
        _Document(
            row["task"],
            row["doc_id"],
            row["doc_hash"],
            row["cluster"],
            row["share"],
            math.copysign(1.0, row["share"]) * row["score"],
        )
        for row in rows
    ]


def _groups(arm: ArmRecord) -> dict[tuple[int, CostMeasure], list[FinalRecord]]:
    found: dict[tuple[int, CostMeasure], list[FinalRecord]] = {}
    for final in arm.finals:
        found.setdefault((final.final.trial, final.final.at), []).append(final)
    return found


def _tested(
    arm: ArmRecord,
    trial: int,
    at: CostMeasure,
    documents: Sequence[tuple[FinalRecord, list[_Document]]],
) -> FinalArm:
    finals = [final for final, _ in documents]
    outcomes = [final.outcome for final in finals if final.outcome]
    searched = next(found.outcome for found in arm.trials if found.number == trial)
    assert searched is not None and searched.scores is not None
    return FinalArm(
        arm=arm.name,
        method=arm.method,
        trial=trial,
        at=at,
        max_steps=finals[0].final.max_steps,
        seeds=tuple(final.final.seed for final in finals),
        scores=tuple(tuple(document.value for document in rows) for _, rows in documents),
        selection=tuple(outcome.scores.score for outcome in outcomes if outcome.scores),
        searched=searched.scores.score,
        device_seconds=sum(o.cost.device_seconds for o in outcomes) / len(outcomes),
        trained_tokens=sum(o.cost.trained_tokens for o in outcomes) / len(outcomes),
    )


def _winners_of(tested: Sequence[FinalArm], higher_is_better: bool) -> tuple[FinalArm, ...]:
    """Of several winners of an arm the one that does best on the selection suite with new seeds."""
    sign = 1 if higher_is_better else -1
    best: dict[str, FinalArm] = {}
    for arm in tested:
        if arm.at != "steps":
            continue
        mean = sum(arm.selection) / len(arm.selection)
        other = best.get(arm.arm)
        if other is None or sign * mean > sign * sum(other.selection) / len(other.selection):
            best[arm.arm] = arm
    return tuple(arm for arm in tested if arm.arm in best and best[arm.arm].trial == arm.trial)


def _is_held(files: JobPaths) -> bool:
    """Whether a process works on the job; one that was stopped no longer holds its lock."""
    if not files.lock.exists():
        return False
    try:
        with FileLock(files.lock).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _completed(paths: JobPaths) -> Outcome | None:
    outcome = read_outcome(paths)
    return outcome if outcome and outcome.state == "completed" else None


def _read_arm(paths: StudyPaths, config: StudyConfig, name: str, plan: Plan | None) -> ArmRecord:
    arm = config.arms[name]
    seconds = device_seconds(config)[name]
    return ArmRecord(
        name=name,
        method=arm.method,
        budget=trial_budgets(config)[name],
        device_hours=None if seconds is None else seconds / 3600,
        settings=arm.settings,
        search={key: space.model_dump(mode="json") for key, space in arm.search.items()},
        trials=tuple(
            trial
            for number, files in paths.trials(name)
            if (trial := _read_trial(number, files)) is not None
        ),
        finals=() if plan is None else _read_finals(paths, name, plan),
    )


def _read_finals(paths: StudyPaths, arm: str, plan: Plan) -> tuple[FinalRecord, ...]:
    return tuple(
        _read_final(number, plan.finals[arm][number], paths.final(arm, number))
        for number in plan.current.get(arm, ())
    )


def _read_final(number: int, final: Final, files: JobPaths) -> FinalRecord:
    outcome = read_outcome(files)
    if outcome is not None and outcome.failure and outcome.failure.kind == "full_disk":
        outcome = None
    state: Any = outcome.state if outcome else "running" if _is_held(files) else "waiting"
    return FinalRecord(number=number, final=final, state=state, outcome=outcome)


def _read_trial(number: int, files: JobPaths) -> TrialRecord | None:
    try:
        # The spec is plain JSON here: validating all of it would dominate large studies.
        spec: dict[str, Any] = from_json(files.spec.read_bytes())
        params, settings = spec["params"], spec["settings"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    outcome = read_outcome(files)
    if outcome is not None and outcome.failure and outcome.failure.kind == "full_disk":
        outcome = None
    if outcome is not None:
        state: Any = outcome.state
    else:
        state = "running" if _is_held(files) else "waiting"
    return TrialRecord(
        number=number,
        state=state,
        params=params,
        settings=settings,
        outcome=outcome,
    )
