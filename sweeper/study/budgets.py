"""Budgets: trials, device-seconds and wall time, and which limit is spent. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from sweeper.analysis.server_costs import Shares
from sweeper.config.arms import ArmConfig
from sweeper.config.search import BudgetConfig, SamplerConfig
from sweeper.records import DEVICE_FAULTS, SUSPICIONS, Outcome
from sweeper.records.outcomes import IDLE_SERVERS
from sweeper.search.sampling import budget as trials_of_arm

SpentLimit = Literal["device_hours", "wall_time"]
"""The limit that leaves no room for another trial."""


class TrialSummary(NamedTuple):
    """The few values that a coordinator keeps of each trial that ended."""

    state: Literal["completed", "pruned", "failed"]
    score: float | None
    """Score on the selection suite, if the trial completed."""
    stderr: float
    seconds: float
    """Device-seconds of the last attempt, on its own devices."""
    spent: float
    """Device-seconds on its own devices that the budget counts: none if its process was lost."""
    started: float
    """Start of the first attempt that counts; like ``finished`` in seconds since the epoch."""
    finished: float
    served: float = 0.0
    """Its share of the device-seconds of served models' servers while jobs used them."""
    idle: float = 0.0
    """Its share of those of servers that no job used at the time."""

    @property
    def charged(self) -> float:
        """Device-seconds that the budget counts."""
        return self.spent + self.served + self.idle

    def with_shares(self, shares: Shares) -> TrialSummary:
        """Return the summary with other shares of servers' costs."""
        return self._replace(
            served=sum(share.used for share in shares.values()),
            idle=sum(share.idle for share in shares.values()),
        )


_FREE = {"lost", *DEVICE_FAULTS, *SUSPICIONS}
"""Failures whose device-seconds no budget counts: the trial's parameters are not the cause."""


def summarize(outcome: Outcome) -> TrialSummary:
    """Return the values of ``outcome`` that a coordinator keeps."""
    scores = outcome.scores if outcome.state == "completed" else None
    kind = outcome.failure.kind if outcome.failure else None
    seconds = outcome.cost.own_seconds
    idle = outcome.cost.seconds.get(IDLE_SERVERS, 0.0)
    return TrialSummary(
        state=outcome.state,
        score=scores.score if scores else None,
        stderr=scores.stderr if scores else 0.0,
        seconds=seconds,
        spent=0.0 if kind in _FREE else seconds + outcome.earlier_seconds,
        started=outcome.started - outcome.earlier_seconds / outcome.devices,
        finished=outcome.finished,
        served=sum(outcome.cost.servers.values()) - idle,
        idle=idle,
    )


def trial_budgets(
    arms: Mapping[str, ArmConfig], trials: int, sampler: SamplerConfig, total: int | None
) -> dict[str, int]:
    """Return how many trials each arm gets: its own number or ``trials``, within the total.

    The total is given out evenly; None sets no limit. A grid has only so many trials.
    """
    wanted = {name: trials_of_arm(arm, trials, sampler.type) for name, arm in arms.items()}
    if total is None:
        return wanted
    given = dict.fromkeys(wanted, 0)
    for _ in range(total):
        hungry = [name for name in wanted if given[name] < wanted[name]]
        if not hungry:
            break
        given[min(hungry, key=lambda name: given[name])] += 1
    return given


def device_seconds(arms: Mapping[str, ArmConfig], budget: BudgetConfig) -> dict[str, float | None]:
    """Return the device-seconds that each arm's trials may take; None: as many as they need."""
    own = {name: arm.budget.device_hours for name, arm in arms.items()}
    total = budget.device_hours
    without = sum(hours is None for hours in own.values())
    share = None
    if total is not None and without:
        share = max(total - sum(hours for hours in own.values() if hours), 0.0) / without
    hours = {name: share if value is None else value for name, value in own.items()}
    return {name: None if value is None else value * 3600 for name, value in hours.items()}


def spent_limit(
    arm: str,
    ended: Mapping[str, Mapping[int, TrialSummary]],
    *,
    limit: float | None,
    wall_time: float | None,
    devices: int,
    running: Sequence[tuple[str, float]] = (),
    now: float | None = None,
) -> SpentLimit | None:
    """Return the limit that keeps ``arm`` from starting another trial now; None if it may start.

    A trial must end within the budget. It is assumed to take as long as the longest trial of its
    arm so far; of all arms while the arm has none. What servers cost while no job used them does
    not grow with another trial.

    Args:
        arm: The arm's name.
        ended: How trials ended, by arm and number.
        limit: Device-seconds of the arm; None: no limit.
        wall_time: Seconds in which trials of the study may run; None: no limit.
        devices: Devices of each trial.
        running: The arm and the start of each running trial, in seconds since the epoch.
        now: The time, if trials run.
    """
    if limit is None and wall_time is None:
        return None
    mine = ended.get(arm, {})
    everything = [trial for group in ended.values() for trial in group.values()]
    if limit is not None:
        expected = _longest(mine.values(), everything, lambda trial: trial.spent + trial.served)
        total = sum(trial.charged for trial in mine.values())
        total += sum(
            max(expected, ((now or started) - started) * devices)
            for name, started in running
            if name == arm
        )
        if total + expected > limit or total >= limit:
            return "device_hours"
    if wall_time is not None:
        intervals = [(trial.started, trial.finished) for trial in everything if trial.spent]
        intervals += [(started, now or started) for _, started in running]
        total = _covered(intervals)
        expected = _longest(mine.values(), everything, lambda trial: trial.spent)
        if total + expected / devices > wall_time or total >= wall_time:
            return "wall_time"
    return None


def _longest(
    mine: Iterable[TrialSummary],
    everything: Iterable[TrialSummary],
    seconds: Callable[[TrialSummary], float],
) -> float:
    """Return the longest of an arm's trials; of all trials where it has none that took time."""
    return max(map(seconds, mine), default=0.0) or max(map(seconds, everything), default=0.0)


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the seconds that at least one of the intervals covers."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total
