"""Failed trials of each arm, grouped by the kind of failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from pydantic import ValidationError

from sweeper.config.study import StudyConfig
from sweeper.records import FailureKind, Outcome, Record
from sweeper.records.remedies import advice, setup_of
from sweeper.records.study_record import ArmRecord, StudyRecord, TrialRecord

_ROWS = "per_device_train_batch_size"
_BATCHES = (_ROWS, "gradient_accumulation_steps", "rollout_batch_size")
"""Settings that change when a trial is retried because it ran out of memory."""


class FailureGroup(Record):
    """Failures of one kind in one arm."""

    arm: str
    kind: FailureKind
    trials: tuple[int, ...]
    """Numbers of the failed trials."""
    ended: int
    """Number of the arm's trials that have ended in any way."""
    remedies: tuple[str, ...] = ()
    """Remedies to try, in this order."""


class RescoredTrials(Record):
    """Trials of an arm that ran out of memory while they were scored, and were scored again."""

    arm: str
    trials: tuple[int, ...]
    """Numbers of the trials of the search."""
    confirmation_runs: int
    """Number of confirmation runs."""
    batch_size: int
    """Documents at a time that fitted in all of them."""


def rescored_trials(record: StudyRecord) -> tuple[RescoredTrials, ...]:
    """Return the trials of each arm whose scores were taken in smaller batches than asked for."""
    found = []
    for arm in record.arms:
        trials = {trial.number: size for trial in arm.trials if (size := _batch(trial.outcome))}
        runs = [size for run in arm.finals if (size := _batch(run.outcome))]
        if sizes := [*trials.values(), *runs]:
            numbers = tuple(sorted(trials))
            one = RescoredTrials(
                arm=arm.name, trials=numbers, confirmation_runs=len(runs), batch_size=min(sizes)
            )
            found.append(one)
    return tuple(found)


def _batch(outcome: Outcome | None) -> int | None:
    """Return the smallest batch that a job was scored in after it ran out of memory."""
    taken = (outcome.scores, outcome.test_scores) if outcome is not None else ()
    return min((s.batch_size for s in taken if s and s.batch_size is not None), default=None)


def failure_groups(record: StudyRecord) -> tuple[FailureGroup, ...]:
    """Group the failures of each arm by their kind, the most frequent first."""
    return tuple(group for arm in record.arms for group in _groups(arm, record.config))


def failure_kind(trial: TrialRecord) -> FailureKind | None:
    """Return the kind of a failed trial's failure, else None."""
    failure = trial.outcome.failure if trial.state == "failed" and trial.outcome else None
    return failure.kind if failure else None


def _groups(arm: ArmRecord, config: dict[str, Any]) -> list[FailureGroup]:
    ended = [trial for trial in arm.trials if trial.state in ("completed", "pruned", "failed")]
    by_kind: dict[FailureKind, list[TrialRecord]] = {}
    for trial in ended:
        if kind := failure_kind(trial):
            by_kind.setdefault(kind, []).append(trial)
    return [
        FailureGroup(
            arm=arm.name,
            kind=kind,
            trials=tuple(trial.number for trial in failed),
            ended=len(ended),
            remedies=_remedies(arm, config, kind, failed),
        )
        for kind, failed in sorted(by_kind.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _remedies(
    arm: ArmRecord, config: dict[str, Any], kind: FailureKind, failed: Sequence[TrialRecord]
) -> tuple[str, ...]:
    """Return the last trial's remedies; in want of memory, those with the smallest micro-batch."""
    trial = max(failed, key=attrgetter("number"))
    if kind == "out_of_memory":
        trial = min(failed, key=lambda trial: trial.settings.get(_ROWS, math.inf))
    recorded = trial.outcome.failure.remedies if trial.outcome and trial.outcome.failure else ()
    # Old records have none.
    return recorded or (_computed(arm, config, trial) if kind == "out_of_memory" else ())


def _computed(arm: ArmRecord, config: dict[str, Any], trial: TrialRecord) -> tuple[str, ...]:
    try:
        study = StudyConfig.model_validate(config)
    except ValidationError:  # another version's
        return ()
    if arm.name not in study.arms:
        return ()
    setup = setup_of(
        study.arms[arm.name],
        trial.params,
        training=study.training,
        student=study.student,
        teacher=study.teacher,
        compute=study.compute,
    )
    # It was tried again with half the rows.
    tried = {name: trial.settings[name] for name in _BATCHES if name in trial.settings}
    return tuple(advice(replace(setup, settings=setup.settings.model_copy(update=tried))))
