"""Rollouts of GKD trials: signs of collapse, truncated and overlong rollouts, and their curves.

``max_new_tokens`` is only a limit; each trial measures the length of its rollouts and how many
reached the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from sweeper.analysis.comparison import scored_trials
from sweeper.analysis.learning_curves import CurveStep, curve_steps, winner_runs
from sweeper.analysis.verdict_records import Verdict
from sweeper.records import CollapseSign, Record, Rollouts
from sweeper.records.study_record import ArmRecord, StudyRecord, number_of

MANY_TRUNCATED = 0.2
"""Share of a trial's rollouts cut at ``max_new_tokens`` above which the report warns."""
MUCH_LONGER = 2.0
"""Ratio of rollout length to reference length above which the report warns."""


class TrialRollouts(Record):
    """Rollouts of one scored GKD trial."""

    arm: str
    number: int
    rollouts: Rollouts
    max_new_tokens: float | None


class CollapsedTraining(Record):
    """Training that showed a sign of collapse."""

    arm: str
    number: int
    """Number of the trial, or of the winner that was trained again."""
    seed: int | None = None
    """Position of the new seed of a confirmation run; None in the search."""
    sign: CollapseSign


class RolloutStats(Record):
    """Rollouts of a study's GKD trials."""

    trials: int
    """Number of scored trials that recorded their rollouts."""
    truncated: tuple[TrialRollouts, ...]
    """Trials with more than ``MANY_TRUNCATED`` of their rollouts cut."""
    longer: tuple[TrialRollouts, ...]
    """Trials whose mean rollout is more than ``MUCH_LONGER`` times as long as the references.

    Neither lists a trial again whose rollouts collapsed so.
    """
    differing: tuple[TrialRollouts, ...] = ()
    """Trials whose engine of rollouts gave other log-probabilities than the training: on average
    by more than rounding explains."""
    collapsed: tuple[CollapsedTraining, ...] = ()
    """Signs of collapse in trials and confirmation runs."""
    reference_length: float | None
    """Mean tokens of a reference answer."""


def rollout_stats(record: StudyRecord) -> RolloutStats | None:
    """Find truncated and overlong rollouts; return None if no trial recorded its rollouts."""
    trials = [
        TrialRollouts(
            arm=arm.name,
            number=trial.number,
            rollouts=trial.outcome.rollouts,
            max_new_tokens=number_of(trial, "max_new_tokens"),
        )
        for arm in record.arms
        if arm.method == "gkd"
        for trial, _ in scored_trials(arm)
        if trial.outcome and trial.outcome.rollouts
    ]
    collapsed = tuple(case for arm in record.arms for case in _collapsed(arm))
    if not trials and not collapsed:
        return None
    shown = {
        (case.arm, case.number)
        for case in collapsed
        if case.seed is None and case.sign.kind in ("length", "endless")
    }
    others = [trial for trial in trials if (trial.arm, trial.number) not in shown]
    reference = record.data.completion_tokens if record.data else 0.0
    return RolloutStats(
        trials=len(trials),
        truncated=tuple(t for t in others if (t.rollouts.truncated_share or 0.0) > MANY_TRUNCATED),
        longer=tuple(t for t in others if (t.rollouts.length or 0.0) > MUCH_LONGER * reference > 0),
        differing=tuple(t for t in trials if _differs(t.rollouts)),
        collapsed=collapsed,
        reference_length=reference if reference > 0 else None,
    )


def _differs(rollouts: Rollouts) -> bool:
    difference, limit = rollouts.logprob_diff, rollouts.logprob_diff_limit
    return difference is not None and limit is not None and difference > limit


def _collapsed(arm: ArmRecord) -> Iterator[CollapsedTraining]:
    for trial in arm.trials:
        for sign in trial.outcome.collapse if trial.outcome else ():
            yield CollapsedTraining(arm=arm.name, number=trial.number, sign=sign)
    for run in arm.finals:
        for sign in run.outcome.collapse if run.outcome else ():
            winner, seed = run.final.trial, run.final.seed
            yield CollapsedTraining(arm=arm.name, number=winner, seed=seed, sign=sign)


RolloutMeasure = Literal[
    "rollout_length",
    "truncated_share",
    "ended_share",
    "repetition",
    "student_entropy",
    "teacher_entropy",
    "teacher_logprob",
    "rollout_logprob_diff",
]


class RolloutCurve(Record):
    """Rollouts by optimiser step, of an arm's winner over its seeds or of one trial."""

    arm: str
    trial: int
    collapsed: bool
    """True if it is a trial that showed a sign of collapse."""
    measures: dict[RolloutMeasure, tuple[CurveStep, ...]]


def rollout_curves(record: StudyRecord, verdict: Verdict | None) -> tuple[RolloutCurve, ...]:
    """Return each winner's rollouts, else the best trial's, and those of trials that collapsed."""
    curves = []
    for arm in record.arms:
        runs = winner_runs(arm, verdict)
        groups = [(runs[0].final.trial, False, [run.curve for run in runs])] if runs else []
        for trial in arm.trials:
            collapsed = bool(trial.outcome and trial.outcome.collapse)
            if collapsed or not runs:
                groups.append((trial.number, collapsed, [trial.curve]))
        for number, collapsed, points in groups:
            steps = {m: curve_steps(points, m) for m in get_args(RolloutMeasure)}
            if measures := {measure: found for measure, found in steps.items() if len(found) > 1}:
                curves.append(
                    RolloutCurve(arm=arm.name, trial=number, collapsed=collapsed, measures=measures)
                )
    return tuple(curves)
