"""Early stopping of an arm: no improvement, or a spent budget, before it has had its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sweeper.config.arms import ArmConfig
from sweeper.config.search import BudgetConfig
from sweeper.study.budgets import TrialSummary, device_seconds, spent_limit

StopReason = Literal["device_hours", "wall_time", "patience"]
"""The limit that ends an arm before it has had its trials."""


@dataclass(frozen=True)
class StoppingRule:
    """When an arm starts no further trial.

    Attributes:
        arms: The arms, by name.
        budget: The study's budget.
        devices: Devices of each trial.
        higher_is_better: True if the selection suite's score is better when higher.
    """

    arms: Mapping[str, ArmConfig]
    budget: BudgetConfig
    devices: int
    higher_is_better: bool

    def reason(
        self,
        arm: str,
        ended: Mapping[str, Mapping[int, TrialSummary]],
        *,
        running: Sequence[tuple[str, float]] = (),
        now: float | None = None,
    ) -> StopReason | None:
        """Return why ``arm`` may not start another trial now; None if it may.

        Args:
            arm: The arm's name.
            ended: How trials ended, by arm and number.
            running: The arm and the start of each running trial, in seconds since the epoch.
            now: The time, if trials run.
        """
        patience = self.arms[arm].budget.patience or self.budget.patience
        mine = ended.get(arm, {})
        if patience and is_stale(mine, patience, higher_is_better=self.higher_is_better):
            return "patience"
        return spent_limit(
            arm,
            ended,
            limit=device_seconds(self.arms, self.budget)[arm],
            wall_time=self.budget.wall_time,
            devices=self.devices,
            running=running,
            now=now,
        )


def is_stale(ended: Mapping[int, TrialSummary], patience: int, *, higher_is_better: bool) -> bool:
    """Return whether the best score has not risen beyond its standard error for too many trials.

    Trials count in the order of their numbers. Those that failed or were pruned count, and have no
    score.

    Args:
        ended: How the arm's trials ended, by number.
        patience: Trials without improvement after which an arm is stale.
        higher_is_better: True if the score is better when higher.
    """
    sign = 1.0 if higher_is_better else -1.0
    in_order = [ended[number] for number in sorted(ended)]
    before = [(sign * t.score, t.stderr) for t in in_order[:-patience] if t.score is not None]
    if not before:
        return False
    best, stderr = max(before, key=lambda scored: scored[0])
    since = [sign * t.score for t in in_order[-patience:] if t.score is not None]
    return max(since, default=best) - best <= stderr
