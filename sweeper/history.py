"""What a study left under ``runs``, as one record for the reports; reads only, needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from sweeper.analysis.lead import teacher_lead
from sweeper.budgets import device_seconds, ending, stop_reason, trial_budgets
from sweeper.config.study import StudyConfig
from sweeper.execution.executor import read_completed, read_state
from sweeper.finals import read_confirmation, read_documents, read_finals, read_plan
from sweeper.paths import JobPaths, StudyPaths
from sweeper.records import DataSummary, Outcome, Scores
from sweeper.snapshot import Snapshot
from sweeper.study_record import (
    ArmRecord,
    Lead,
    Plan,
    ScoredDocument,
    StudyRecord,
    TrialRecord,
)


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
    data = read_completed(paths.preparation("data"))
    return Preparation(
        data=data.data if data else None,
        teacher=read_completed(paths.preparation("teacher")),
        starting_student=read_completed(paths.preparation("student")),
    )


def read_lead(paths: StudyPaths) -> Lead | None:
    """How much better the teacher is than the starting student, once both were scored."""
    found = read_preparation(paths)
    teacher = found.teacher.scores if found.teacher else None
    student = found.starting_student.scores if found.starting_student else None
    if teacher is None or student is None or teacher.suite_hash != student.suite_hash:
        return None
    theirs, ours = (selection_documents(paths.preparation(step)) for step in ("teacher", "student"))
    return teacher_lead(teacher, student, theirs, ours)


def selection_documents(files: JobPaths) -> list[ScoredDocument]:
    """A model's score on each document that the selection suite's is made of.

    There are none where the file is older than what is read here, or damaged.
    """
    try:
        return read_documents(files.documents)
    except (LookupError, TypeError, ValueError):
        return []


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
        config=snapshot.written or config.model_dump(mode="json", exclude_unset=True),
        provenance=provenance,
        arms=arms,
        teacher=before.teacher,
        starting_student=before.starting_student,
        data=summary,
        higher_is_better=higher,
        lead=read_lead(paths),
        test=read_confirmation(paths, plan, arms, higher_is_better=higher) if plan else None,
    )


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
        finals=() if plan is None else read_finals(paths, name, plan),
    )


def _read_trial(number: int, files: JobPaths) -> TrialRecord | None:
    try:
        # The spec is plain JSON here: validating all of it would dominate large studies.
        spec: dict[str, Any] = from_json(files.spec.read_bytes())
        params, settings = spec["params"], spec["settings"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    state, outcome = read_state(files)
    return TrialRecord(
        number=number,
        state=state,
        params=params,
        settings=settings,
        outcome=outcome,
    )
