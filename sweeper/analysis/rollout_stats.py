"""What GKD trials really sampled, and how their scores go with it.

``lmbda`` is a chance and ``max_new_tokens`` a limit: what they came to is measured. Trials differ
in other settings too, so a correlation is no proof of a cause.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sweeper.analysis.comparison import scored_trials
from sweeper.analysis.stats.rank_tests import Correlation, rank_correlation
from sweeper.analysis.stats.significance import ALPHA, holm
from sweeper.records import Record, Rollouts
from sweeper.records.study_record import StudyRecord, number_of

Quantity = Literal["on_policy_share", "length", "truncated_share"]
QUANTITIES: tuple[Quantity, ...] = ("on_policy_share", "length", "truncated_share")
MANY_TRUNCATED = 0.2
"""The share of a trial's rollouts, cut at ``max_new_tokens``, above which that is worth saying."""
MUCH_LONGER = 2.0
"""How many times as long as the references rollouts are when that is worth saying."""


class TrialRollouts(Record):
    """A GKD trial with a score, and what it sampled."""

    arm: str
    number: int
    score: float
    rollouts: Rollouts
    max_new_tokens: float | None

    def value(self, quantity: Quantity) -> float | None:
        """One of the measured quantities."""
        found: float | None = getattr(self.rollouts, quantity)
        return found


class Trend(Record):
    """How good scores are as a quantity rises."""

    quantity: Quantity
    correlation: Correlation
    """Of the quantity with how good the score is: positive, if more of it goes with better ones."""
    p_adjusted: float
    """Of Holm's procedure over the quantities."""

    @property
    def is_told(self) -> bool:
        """Whether it can be told from chance."""
        return self.p_adjusted <= ALPHA


class RolloutStats(Record):
    """What the GKD trials of a study sampled."""

    trials: tuple[TrialRollouts, ...]
    trends: tuple[Trend, ...]
    """Of the quantities that vary over enough trials."""
    truncated: tuple[TrialRollouts, ...]
    """The trials of which more than ``MANY_TRUNCATED`` of the rollouts were cut."""
    longer: tuple[TrialRollouts, ...]
    """Those whose rollouts were on average more than ``MUCH_LONGER`` times the references."""
    reference_length: float | None
    """Tokens of a reference answer, on average."""


def rollout_stats(record: StudyRecord) -> RolloutStats | None:
    """What the scored GKD trials sampled; None if none says so."""
    trials = [
        TrialRollouts(
            arm=arm.name,
            number=trial.number,
            score=score.score,
            rollouts=trial.outcome.rollouts,
            max_new_tokens=number_of(trial, "max_new_tokens"),
        )
        for arm in record.arms
        if arm.method == "gkd"
        for trial, score in scored_trials(arm)
        if trial.outcome is not None and trial.outcome.rollouts is not None
    ]
    if not trials:
        return None
    sign = 1.0 if record.higher_is_better else -1.0
    reference = record.data.completion_tokens if record.data else 0.0
    return RolloutStats(
        trials=tuple(trials),
        trends=tuple(_trends(trials, sign)),
        truncated=tuple(
            trial for trial in trials if (trial.rollouts.truncated_share or 0.0) > MANY_TRUNCATED
        ),
        longer=tuple(
            trial
            for trial in trials
            if reference > 0 and (trial.rollouts.length or 0.0) > MUCH_LONGER * reference
        ),
        reference_length=reference if reference > 0 else None,
    )


def _trends(trials: Iterable[TrialRollouts], sign: float) -> list[Trend]:
    found: list[tuple[Quantity, Correlation]] = []
    for quantity in QUANTITIES:
        pairs = [
            (value, sign * trial.score)
            for trial in trials
            if (value := trial.value(quantity)) is not None
        ]
        correlation = rank_correlation([x for x, _ in pairs], [y for _, y in pairs])
        if correlation is not None:
            found.append((quantity, correlation))
    adjusted = holm([correlation.p for _, correlation in found])
    return [
        Trend(quantity=quantity, correlation=correlation, p_adjusted=p)
        for (quantity, correlation), p in zip(found, adjusted, strict=True)
    ]
