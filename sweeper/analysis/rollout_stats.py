"""Truncated and overlong rollouts of GKD trials.

``max_new_tokens`` is only a limit; each trial measures the length of its rollouts and how many
reached the limit.
"""

from __future__ import annotations

from sweeper.analysis.comparison import scored_trials
from sweeper.records import Record, Rollouts
from sweeper.records.study_record import StudyRecord, number_of

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


class RolloutStats(Record):
    """Rollouts of a study's GKD trials."""

    trials: int
    """Number of scored trials that recorded their rollouts."""
    truncated: tuple[TrialRollouts, ...]
    """Trials with more than ``MANY_TRUNCATED`` of their rollouts cut."""
    longer: tuple[TrialRollouts, ...]
    """Trials whose mean rollout is more than ``MUCH_LONGER`` times as long as the references."""
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
    if not trials:
        return None
    reference = record.data.completion_tokens if record.data else 0.0
    return RolloutStats(
        trials=len(trials),
        truncated=tuple(t for t in trials if (t.rollouts.truncated_share or 0.0) > MANY_TRUNCATED),
        longer=tuple(t for t in trials if (t.rollouts.length or 0.0) > MUCH_LONGER * reference > 0),
        reference_length=reference if reference > 0 else None,
    )
