"""Early stopping of an arm: no improvement, or a spent budget, before it has had its trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sweeper.config.study import StudyConfig
from sweeper.study.budgets import TrialSummary, device_seconds

StopReason = Literal["device_hours", "wall_time", "patience"]
"""The limit that ends an arm before it has had its trials."""


@dataclass(frozen=True)
class StoppingRule:
    """When an arm starts no further trial."""

    config: StudyConfig
    higher_is_better: bool
    """True if the selection suite's score is better when higher."""

    def reason(
        self,
        arm: str,
        ended: Mapping[str, Mapping[int, TrialSummary]],
        *,
        running: Sequence[tuple[str, float]] = (),
        now: float | None = None,
    ) -> StopReason | None:
        """Return why ``arm`` may not start another trial now; None if it may.

        A trial must end within the budget. It is assumed to take as long as the longest trial of
        its arm so far; of all arms while the arm has none. ``running`` has the arm and the start of
        each running trial, in seconds since the epoch like ``now``.
        """
        budget, devices = self.config.budget, self.config.compute.devices_per_trial
        patience = self.config.arms[arm].budget.patience or budget.patience
        mine = ended.get(arm, {})
        if patience and is_stale(mine, patience, higher_is_better=self.higher_is_better):
            return "patience"
        limit = device_seconds(self.config)[arm]
        if limit is None and budget.wall_time is None:
            return None
        everything = [trial for group in ended.values() for trial in group.values()]
        expected = _longest(mine.values()) or _longest(everything)
        if limit is not None:
            total = sum(trial.spent for trial in mine.values())
            total += sum(
                max(expected, ((now or started) - started) * devices)
                for name, started in running
                if name == arm
            )
            if total + expected > limit or total >= limit:
                return "device_hours"
        if budget.wall_time is not None:
            intervals = [(trial.started, trial.finished) for trial in everything if trial.spent]
            intervals += [(started, now or started) for _, started in running]
            total = _covered(intervals)
            if total + expected / devices > budget.wall_time or total >= budget.wall_time:
                return "wall_time"
        return None


def _longest(ended: Iterable[TrialSummary]) -> float:
    return max((trial.spent for trial in ended), default=0.0)


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the seconds that at least one of the intervals covers."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def is_stale(ended: Mapping[int, TrialSummary], patience: int, *, higher_is_better: bool) -> bool:
    """Return whether the best score has not risen beyond its standard error for too many trials.

    Trials count in the order of their numbers. Those that failed or were pruned count, and have no
    score.
    """
    sign = 1.0 if higher_is_better else -1.0
    in_order = [ended[number] for number in sorted(ended)]
    before = [(sign * t.score, t.stderr) for t in in_order[:-patience] if t.score is not None]
    if not before:
        return False
    best, stderr = max(before, key=lambda scored: scored[0])
    since = [sign * t.score for t in in_order[-patience:] if t.score is not None]
    return max(since, default=best) - best <= stderr
