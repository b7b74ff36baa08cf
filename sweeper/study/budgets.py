"""Budgets of arms: trials and device-seconds, and what trials that ended have spent."""

from __future__ import annotations

from typing import Literal, NamedTuple

from sweeper.config.study import StudyConfig
from sweeper.records import Outcome
from sweeper.search.sampling import budget as trials_of_arm


class TrialSummary(NamedTuple):
    """The few values that a coordinator keeps of each trial that ended."""

    state: Literal["completed", "pruned", "failed"]
    score: float | None
    """Score on the selection suite, if the trial completed."""
    stderr: float
    seconds: float
    """Device-seconds of the last attempt."""
    spent: float
    """Device-seconds that the budget counts: none if its process was lost."""
    started: float
    """Start of the first attempt that counts; like ``finished`` in seconds since the epoch."""
    finished: float


def summarize(outcome: Outcome) -> TrialSummary:
    """Return the values of ``outcome`` that a coordinator keeps."""
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
    """Return how many trials each arm gets: its own number or the study's, within the total.

    The total is given out evenly. A grid has only so many trials.
    """
    total, sampler = config.budget.trials, config.sampler.type
    wanted = {name: trials_of_arm(arm, config.trials, sampler) for name, arm in config.arms.items()}
    if total is None:
        return wanted
    given = dict.fromkeys(wanted, 0)
    for _ in range(total):
        hungry = [name for name in wanted if given[name] < wanted[name]]
        if not hungry:
            break
        given[min(hungry, key=lambda name: given[name])] += 1
    return given


def device_seconds(config: StudyConfig) -> dict[str, float | None]:
    """Return the device-seconds that each arm's trials may take; None: as many as they need."""
    own = {name: arm.budget.device_hours for name, arm in config.arms.items()}
    total = config.budget.device_hours
    without = sum(hours is None for hours in own.values())
    share = None
    if total is not None and without:
        share = max(total - sum(hours for hours in own.values() if hours), 0.0) / without
    hours = {name: share if value is None else value for name, value in own.items()}
    return {name: None if value is None else value * 3600 for name, value in hours.items()}
