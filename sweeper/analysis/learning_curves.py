"""How winners learned: their training curves, over the seeds that they were trained with.

Training losses do not compare between arms, because each has its own divergence and its own
sequences. The distance from the teacher on fixed sequences does, where it was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sweeper.analysis.verdict import Verdict
from sweeper.config.settings import Method
from sweeper.records import Record
from sweeper.records.study_record import ArmRecord, ConfirmationRunRecord, StudyRecord

Measure = Literal["loss", "teacher_divergence"]


class CurveStep(Record):
    """The same step of several trainings."""

    step: int
    mean: float
    low: float
    high: float
    """The smallest and the largest over seeds."""
    seeds: int


class LearningCurve(Record):
    """An arm's winner, over its seeds."""

    arm: str
    method: Method
    trial: int
    measure: Measure
    steps: tuple[CurveStep, ...]


def learning_curves(record: StudyRecord, verdict: Verdict | None) -> tuple[LearningCurve, ...]:
    """The curve of each arm's winner; all of them by the yardstick, or all by their losses."""
    groups = [(arm, found) for arm in record.arms if (found := winner_runs(arm, verdict))]
    for measure in ("teacher_divergence", "loss"):
        curves = [_curve(arm, finals, measure) for arm, finals in groups]
        shown = tuple(curve for curve in curves if len(curve.steps) > 1)
        if shown:
            return shown
    return ()


def winner_runs(arm: ArmRecord, verdict: Verdict | None) -> list[ConfirmationRunRecord]:
    """The trainings of the arm's winner, as long as the search's."""
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
    found: dict[int, list[float]] = {}
    for final in finals:
        for point in final.curve:
            value = getattr(point, measure)
            if value is not None:
                found.setdefault(point.step, []).append(value)
    return LearningCurve(
        arm=arm.name,
        method=arm.method,
        trial=finals[0].final.trial,
        measure=measure,
        steps=tuple(
            CurveStep(
                step=step,
                mean=sum(values) / len(values),
                low=min(values),
                high=max(values),
                seeds=len(values),
            )
            for step, values in sorted(found.items())
        ),
    )
