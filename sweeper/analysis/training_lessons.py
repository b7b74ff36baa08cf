"""Lessons of a study on training: settings to use, advice, failures, rollouts and curves."""

from __future__ import annotations

from sweeper.analysis.advice import Advice, advice
from sweeper.analysis.comparison import Comparison
from sweeper.analysis.failures import (
    FailureGroup,
    RescoredTrials,
    failure_groups,
    rescored_trials,
)
from sweeper.analysis.learning_curves import LearningCurve, learning_curves
from sweeper.analysis.recommendation import Recommendation, recommend
from sweeper.analysis.rollout_stats import (
    RolloutCurve,
    RolloutStats,
    rollout_curves,
    rollout_stats,
)
from sweeper.analysis.verdict_records import Verdict
from sweeper.records import Record
from sweeper.records.study_record import StudyRecord


class TrainingLessons(Record):
    """Lessons of a study on training."""

    recommendation: Recommendation | None
    advice: tuple[Advice, ...]
    failures: tuple[FailureGroup, ...]
    rescored: tuple[RescoredTrials, ...] = ()
    rollout_stats: RolloutStats | None
    curves: tuple[LearningCurve, ...]
    rollout_curves: tuple[RolloutCurve, ...]


def training_lessons(
    record: StudyRecord, comparison: Comparison, verdict: Verdict | None
) -> TrainingLessons:
    """Draw the lessons of a study at any stage."""
    return TrainingLessons(
        recommendation=recommend(record, comparison, verdict),
        advice=advice(record),
        failures=failure_groups(record),
        rescored=rescored_trials(record),
        rollout_stats=rollout_stats(record),
        curves=learning_curves(record, verdict),
        rollout_curves=rollout_curves(record, verdict),
    )
