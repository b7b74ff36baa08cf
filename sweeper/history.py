"""What a study left under ``runs``, as one record for the reports; reads only, needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout
from pydantic_core import from_json

from sweeper.budgets import device_seconds, ending, stop_reason, trial_budgets
from sweeper.config.study import StudyConfig
from sweeper.errors import ConfigError, Problem
from sweeper.execution.executor import read_outcome
from sweeper.paths import JobPaths, StudyPaths
from sweeper.records import (
    ArmRecord,
    DataSummary,
    Final,
    FinalRecord,
    Outcome,
    Plan,
    Scores,
    StudyRecord,
    TestRecord,
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
        test=TestRecord(plan=plan, **read_test_baselines(paths)) if plan else None,
    )


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
