"""What a study has spent, and whether an arm may start another trial: pure functions on records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from sweeper.config.study import StudyConfig
from sweeper.records import Outcome
from sweeper.search.sampling import budget

StopReason = Literal["device_hours", "wall_time", "patience"]
"""The limit that ends an arm before it has had its trials."""


class TrialSummary(NamedTuple):
    """The few things that a study remembers of each trial that ended, however many there are."""

    state: Literal["completed", "pruned", "failed"]
    score: float | None
    """Of the selection suite, if the trial completed."""
    stderr: float
    seconds: float
    """Device-seconds of the last attempt."""
    spent: float
    """The device-seconds that it counts for: none if its process was lost."""
    started: float
    """Its first attempt that counts; like ``finished`` in seconds since the epoch."""
    finished: float


def summarize(outcome: Outcome) -> TrialSummary:
    """What is remembered of ``outcome``."""
    scores = outcome.scores if outcome.state == "completed" else None
    kind = outcome.failure.kind if outcome.failure else None
    seconds = outcome.cost.device_seconds
    return TrialSummary(
        state=outcome.state,
        score=scores.score if scores else None,
        stderr=scores.stderr if scores else 0.0,
        seconds=seconds,
        spent=0.0 if kind == "lost" else seconds + outcome.earlier_seconds,
        started=outcome.started - outcome.earlier_seconds / outcome.devices,
        finished=outcome.finished,
    )


def trial_budgets(config: StudyConfig) -> dict[str, int]:
    """How many trials each arm gets: its own number, within an even part of the study's."""
    wanted = {
        name: budget(arm, config.trials, config.sampler.type) for name, arm in config.arms.items()
    }
    if config.budget.trials is None:
        return wanted
    given = dict.fromkeys(wanted, 0)
    for _ in range(config.budget.trials):
        hungry = [name for name in wanted if given[name] < wanted[name]]
        if not hungry:
            break
        given[min(hungry, key=lambda name: given[name])] += 1
    return given


def device_seconds(config: StudyConfig) -> dict[str, float | None]:
    """How many seconds each arm's trials may take on their devices; None: as many as they need."""
    own = {name: arm.budget.device_hours for name, arm in config.arms.items()}
    whole = config.budget.device_hours
    without = sum(hours is None for hours in own.values())
    share = None
    if whole is not None and without:
        share = max(whole - sum(hours for hours in own.values() if hours), 0.0) / without
    hours = {name: share if value is None else value for name, value in own.items()}
    return {name: None if value is None else value * 3600 for name, value in hours.items()}


def stop_reason(
    config: StudyConfig,
    arm: str,
    ended: Mapping[str, Mapping[int, TrialSummary]],
    *,
    higher_is_better: bool,
    running: Sequence[tuple[str, float]] = (),
    now: float | None = None,
) -> StopReason | None:
    """Why ``arm`` may not start another trial now, beside the number of its trials; None if it may.

    Nothing starts that would not end within the budget, if it took as long as the longest of the
    arm's trials so far (of all arms', as long as the arm has none).

    Args:
        config: The study.
        arm: The arm's name.
        ended: How trials ended, by arm and number.
        higher_is_better: Of the selection suite.
        running: The trials that run: their arm, and when they started, in seconds since the epoch.
        now: The time, if trials run.
    """
    mine = ended.get(arm, {})
    patience = config.arms[arm].budget.patience or config.budget.patience
    if patience is not None and is_stale(mine, patience, higher_is_better=higher_is_better):
        return "patience"
    limit, wall_time = device_seconds(config)[arm], config.budget.wall_time
    if limit is None and wall_time is None:
        return None
    everything = [trial for group in ended.values() for trial in group.values()]
    devices = config.compute.devices_per_trial
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
    if wall_time is not None:
        whole = [(trial.started, trial.finished) for trial in everything if trial.spent]
        whole += [(started, now or started) for _, started in running]
        total = _covered(whole)
        if total + expected / devices > wall_time or total >= wall_time:
            return "wall_time"
    return None


def is_stale(ended: Mapping[int, TrialSummary], patience: int, *, higher_is_better: bool) -> bool:
    """Whether the best score has not risen beyond its standard error for ``patience`` trials.

    Trials are taken in the order of their numbers; those that failed or were pruned count, and
    have no score.
    """
    sign = 1.0 if higher_is_better else -1.0
    in_order = [ended[number] for number in sorted(ended)]
    before = [(sign * t.score, t.stderr) for t in in_order[:-patience] if t.score is not None]
    if not before:
        return False
    best, stderr = max(before, key=lambda found: found[0])
    since = [sign * t.score for t in in_order[-patience:] if t.score is not None]
    return max(since, default=best) - best <= stderr


def _longest(ended: Iterable[TrialSummary]) -> float:
    return max((trial.spent for trial in ended), default=0.0)


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The seconds that at least one of the intervals covers."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total
