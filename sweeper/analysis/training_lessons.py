"""What a study teaches of training well: settings to take, advice, failures and rollouts."""

from __future__ import annotations

from sweeper.analysis.advice import Advice, advice
from sweeper.analysis.comparison import Comparison
from sweeper.analysis.failures import FailureGroup, failure_groups
from sweeper.analysis.learning_curves import LearningCurve, learning_curves
from sweeper.analysis.poor_quality import PoorQuality, poor_quality
from sweeper.analysis.recommendation import Recommendation, recommend
from sweeper.analysis.rollout_stats import RolloutStats, rollout_stats
from sweeper.analysis.verdict import Verdict
from sweeper.records import Record
from sweeper.records.study_record import StudyRecord


class PracticeLessons(Record):
    """What a study teaches about training well."""

    higher_is_better: bool
    recommendation: Recommendation | None
    advice: tuple[Advice, ...]
    poor_quality: PoorQuality | None
    failures: tuple[FailureGroup, ...]
    rollout_stats: RolloutStats | None
    curves: tuple[LearningCurve, ...]


def practice_lessons(
    record: StudyRecord, comparison: Comparison, verdict: Verdict | None
) -> PracticeLessons:
    """Look at a study that may be at any stage.

    Args:
        record: The study.
        comparison: Its arms on the selection suite.
        verdict: Its winners on the test suite, once they were scored.
    """
    found = advice(record, comparison, verdict)
    return PracticeLessons(
        higher_is_better=record.higher_is_better,
        recommendation=recommend(record, comparison, verdict),
        advice=found,
        poor_quality=poor_quality(comparison, found),
        failures=failure_groups(record),
        rollout_stats=rollout_stats(record),
        curves=learning_curves(record, verdict),
    )
