"""The time left of a running search, from the durations of its trials so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_ENOUGH = 0.1
"""Share of its steps after which a running trial predicts its duration."""


@dataclass(frozen=True)
class RunningTrial:
    """Progress of a running trial, for the estimate."""

    arm: str
    seconds: float
    """Seconds since the trial started."""
    fraction: float
    """Share of the optimiser steps that is done."""


def estimate(
    durations: Mapping[str, Sequence[float]],
    remaining: Mapping[str, int],
    workers: int,
    running: Sequence[RunningTrial] = (),
) -> float | None:
    """Estimate the seconds until the search ends; None before any duration can be predicted.

    Args:
        durations: Seconds of the finished trials, by arm.
        remaining: Trials that have not finished, the running ones included, by arm.
        workers: Trials that run at a time.
        running: The running trials. They predict the duration for an arm without a finished one.
    """
    left = {arm: count for arm, count in remaining.items() if count > 0}
    if not left:
        return 0.0
    means = {arm: sum(ended) / len(ended) for arm, ended in durations.items() if ended}
    pace: dict[str, list[float]] = {}
    for trial in running:
        if trial.arm not in means and trial.fraction >= _ENOUGH:
            pace.setdefault(trial.arm, []).append(trial.seconds / trial.fraction)
    means |= {arm: sum(guesses) / len(guesses) for arm, guesses in pace.items()}
    if not means:
        return None
    # For an arm without any duration, the average arm is the best guess.
    typical = sum(means.values()) / len(means)
    work = sum(count * means.get(arm, typical) for arm, count in left.items())
    longest = max(means.get(arm, typical) for arm in left)
    done = sum(min(trial.seconds, means.get(trial.arm, typical)) for trial in running)
    waiting = sum(left.values()) - len(running)
    # Workers cannot share one trial, so the end is at least one whole trial away while any waits.
    youngest = min((trial.seconds for trial in running), default=0.0)
    shortest = longest if waiting > 0 else max(longest - youngest, 0.0)
    return max((work - done) / max(workers, 1), shortest if work > done else 0.0)
