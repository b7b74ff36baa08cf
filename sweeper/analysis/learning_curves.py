"""Training curves of winners, over the seeds that they were trained with.

Training losses do not compare between arms, because each arm has its own divergence and its own
sequences. The distance from the teacher on fixed sequences does, where it was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal

from sweeper.analysis.verdict_records import Verdict
from sweeper.config.settings import Method
from sweeper.records import Record
from sweeper.records.study_record import (
    ArmRecord,
    ConfirmationRunRecord,
    CurvePoint,
    StudyRecord,
)

Measure = Literal["loss", "teacher_divergence"]


class CurveStep(Record):
    """One step of several trainings."""

    step: int
    mean: float
    low: float
    high: float
    """Smallest and largest value over seeds."""
    seeds: int


class LearningCurve(Record):
    """Curve of an arm's winner, over its seeds."""

    arm: str
    method: Method
    trial: int
    measure: Measure
    steps: tuple[CurveStep, ...]


def learning_curves(record: StudyRecord, verdict: Verdict | None) -> tuple[LearningCurve, ...]:
    """Return each winner's curve: all by the distance from the teacher, or all by losses."""
    groups = [(arm, runs) for arm in record.arms if (runs := winner_runs(arm, verdict))]
    for measure in ("teacher_divergence", "loss"):
        curves = [_curve(arm, finals, measure) for arm, finals in groups]
        if shown := tuple(curve for curve in curves if len(curve.steps) > 1):
            return shown
    return ()


def winner_runs(arm: ArmRecord, verdict: Verdict | None) -> list[ConfirmationRunRecord]:
    """Return the retrained runs of the arm's winner that are as long as the search's."""
    finals = [final for final in arm.finals if final.final.at == "steps"]
    if not finals:
        return []
    judged = verdict.arms if verdict else ()
    trials = [one.trial for one in judged if one.arm == arm.name and one.at == "steps"]
    chosen = trials[0] if trials else finals[0].final.trial
    return [final for final in finals if final.final.trial == chosen]


def _curve(
    arm: ArmRecord, finals: Sequence[ConfirmationRunRecord], measure: Measure
) -> LearningCurve:
    return LearningCurve(
        arm=arm.name,
        method=arm.method,
        trial=finals[0].final.trial,
        measure=measure,
        steps=curve_steps([final.curve for final in finals], measure),
    )


def curve_steps(curves: Iterable[Iterable[CurvePoint]], measure: str) -> tuple[CurveStep, ...]:
    """Return mean and range of a measure over several trainings, at each step that has it."""
    found: dict[int, list[float]] = {}
    for point in chain.from_iterable(curves):
        if (value := getattr(point, measure)) is not None:
            found.setdefault(point.step, []).append(value)
    return tuple(
        CurveStep(
            step=step,
            mean=sum(values) / len(values),
            low=min(values),
            high=max(values),
            seeds=len(values),
        )
        for step, values in sorted(found.items())
    )
