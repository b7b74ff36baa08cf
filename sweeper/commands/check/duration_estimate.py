"""The duration of a whole study, from that of an arm's cheapest and most expensive trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeper.analysis.fairness import TOLERANCE
from sweeper.analysis.timing import (
    ArmTime,
    ArmTiming,
    DurationEstimate,
    Phase,
    PhaseName,
    StudyTiming,
    TrialTiming,
)
from sweeper.analysis.verdict import matched_arms, primary_comparisons
from sweeper.commands.check.cost_range import COSTLY
from sweeper.config.confirm import CostMeasure


@dataclass(frozen=True)
class StudyPlan:
    """The jobs of a study."""

    trials: Mapping[str, int]
    """Trials of each arm."""
    intermediate_scores: Mapping[str, int]
    """Scores in the middle of a training, by arm; none of other arms."""
    intermediate_documents: int
    """Documents of each task that such a score is made of."""
    trainings: int
    """Trainings of each arm's winners; 0 without a confirmation."""
    test_documents: int
    """Documents of the test suite, including tasks of weight 0."""
    compare_at: Sequence[CostMeasure]
    devices: int
    """Devices of a trial."""
    compare: Sequence[tuple[str, str]] | None = None
    """Primary comparisons that the study declares."""


_OF_ARMS: tuple[PhaseName, ...] = ("search", "confirmation", "test scoring")
_Jobs = dict[PhaseName, list[float]]
"""Seconds of an arm's jobs, by phase; a winner's training and its test count as two."""


def estimate(timing: StudyTiming, plan: StudyPlan) -> DurationEstimate:
    """Return how long the whole study takes, from its beginning."""
    low = {arm.arm: arm.lightest for arm in timing.arms}
    mean = {arm.arm: arm.mean for arm in timing.arms}
    high = {arm.arm: arm.heaviest for arm in timing.arms}
    jobs = _jobs(timing, plan, mean)
    phases = _phases(timing, plan, mean)
    least, most = (
        sum(phase.wall_seconds for phase in _phases(timing, plan, trials)) for trials in (low, high)
    )
    return DurationEstimate(
        workers=timing.workers,
        wall_seconds=sum(phase.wall_seconds for phase in phases),
        wall_range=(least, most),
        device_hours=sum(phase.device_seconds for phase in phases) / 3600,
        phases=phases,
        arms=tuple(_arm(arm, jobs[arm.arm], plan.devices) for arm in timing.arms),
    )


def wall_seconds(jobs: Sequence[float], workers: int) -> float:
    """Return how long jobs take: rounds of average jobs, and no less than the longest job."""
    if not jobs:
        return 0.0
    return max(*jobs, math.ceil(len(jobs) / workers) * sum(jobs) / len(jobs))


def _jobs(
    timing: StudyTiming, plan: StudyPlan, trials: Mapping[str, TrialTiming]
) -> dict[str, _Jobs]:
    part = min(1.0, plan.intermediate_documents * timing.tasks / timing.documents)
    trainings = _winner_trainings(timing, plan, trials)
    jobs: dict[str, _Jobs] = {}
    for name, trial in trials.items():
        interim = plan.intermediate_scores.get(name, 0) * part * trial.scoring
        test = trial.scoring * plan.test_documents / timing.documents
        jobs[name] = {
            "search": [trial.seconds + interim] * plan.trials[name],
            "confirmation": [trial.start + steps + trial.scoring for steps in trainings[name]],
            "test scoring": [test] * len(trainings[name]),
        }
    return jobs


def _winner_trainings(
    timing: StudyTiming, plan: StudyPlan, trials: Mapping[str, TrialTiming]
) -> dict[str, list[float]]:
    """Return the seconds of steps of each training of a winner; see ``study.confirmation``.

    The best GKD arm is not known yet: the most expensive one stands for it.
    """
    methods = {arm.arm: arm.method for arm in timing.arms}
    trainings = {name: [trial.training] * plan.trainings for name, trial in trials.items()}
    for measure in (measure for measure in plan.compare_at if measure != "steps"):
        costs = {
            name: trial.steps * (trial.trained_tokens if measure == "tokens" else trial.step)
            for name, trial in trials.items()
        }
        gkd = [name for name, method in methods.items() if method == "gkd"]
        costliest = max(gkd, key=costs.__getitem__, default=None)
        compared = matched_arms(methods, primary_comparisons(methods, costliest, plan.compare))
        most = max((costs[name] for name in compared), default=0.0)
        for name in compared:
            if costs[name] and most > costs[name] * (1 + TOLERANCE):
                longer = trials[name].training * most / costs[name]
                trainings[name] += [longer] * plan.trainings
    return trainings


def _phases(
    timing: StudyTiming, plan: StudyPlan, trials: Mapping[str, TrialTiming]
) -> tuple[Phase, ...]:
    arms = _jobs(timing, plan, trials).values()
    steps = dict(timing.preparation)
    data = steps.pop("data", 0.0)
    # Seconds of jobs that run next to each other, with the devices of each.
    groups: dict[PhaseName, list[tuple[list[float], int]]] = {
        "preparation": [([data], 1), (list(steps.values()), 1)]
    }
    for phase in _OF_ARMS:
        groups[phase] = [([seconds for arm in arms for seconds in arm[phase]], plan.devices)]
    if plan.trainings:
        student = sum(trial.scoring for trial in trials.values()) / len(trials)
        share = plan.test_documents / timing.documents
        groups["test scoring"].append(([timing.teacher_scoring * share, student * share], 1))
    return tuple(
        Phase(
            name=name,
            wall_seconds=sum(wall_seconds(seconds, timing.workers) for seconds, _ in group),
            device_seconds=sum(sum(seconds) * devices for seconds, devices in group),
        )
        for name, group in groups.items()
        if any(sum(seconds) for seconds, _ in group)
    )


def _arm(arm: ArmTiming, jobs: _Jobs, devices: int) -> ArmTime:
    mean = arm.mean
    peaks = filter(None, (arm.lightest.peak_bytes, arm.heaviest.peak_bytes))
    return ArmTime(
        arm=arm.arm,
        method=arm.method,
        step_seconds=mean.step,
        tokens_per_second=mean.trained_tokens / mean.step if mean.step else 0.0,
        scoring_seconds=mean.scoring,
        trial_seconds=mean.seconds,
        trial_range=(arm.lightest.seconds, arm.heaviest.seconds),
        trials=len(jobs["search"]),
        trainings=len(jobs["confirmation"]),
        device_hours=sum(map(sum, jobs.values())) * devices / 3600,
        peak_bytes=max(peaks, default=None),
        lightest={name: value for name, value in arm.lightest.params.items() if name in COSTLY},
        heaviest={name: value for name, value in arm.heaviest.params.items() if name in COSTLY},
    )
