"""From what a few trials take to what the whole study takes: pure functions on records."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from operator import attrgetter

from sweeper.analysis.fairness import TOLERANCE
from sweeper.analysis.timing import (
    ArmTime,
    ArmTiming,
    DurationEstimate,
    Phase,
    StudyTiming,
    TrialTiming,
)
from sweeper.analysis.verdict import primary_comparisons
from sweeper.commands.check.cost_range import COSTLY
from sweeper.config.base import Scalar
from sweeper.config.confirm import CostMeasure
from sweeper.config.study import StudyConfig
from sweeper.study.budgets import trial_budgets

Where = Callable[[ArmTiming], float]
"""Where an arm's trials are between its lightest and its heaviest."""


def estimate(
    config: StudyConfig, measured: StudyTiming, test_documents: int | None
) -> DurationEstimate:
    """What the whole study takes, from its beginning.

    Args:
        config: The study.
        measured: What was measured, of all its arms.
        test_documents: Of the test suite, with those of tasks of weight 0; None without one.
    """
    workers = measured.workers
    low, mean, high = (
        _schedule(config, measured, test_documents, attrgetter(where))
        for where in ("low", "mean", "high")
    )
    pruned = None
    if any(_looks(config, arm) for arm in measured.arms):
        fewer = _schedule(config, measured, test_documents, attrgetter("mean"), pruned=True)
        pruned = _wall(fewer, workers)
    phases = _phases(mean, workers)
    return DurationEstimate(
        basis=measured.basis,
        measured=measured.trials,
        workers=workers,
        wall_seconds=_wall(mean, workers),
        wall_range=(_wall(low, workers), _wall(high, workers)),
        pruned_wall_seconds=pruned,
        device_hours=sum(phase.device_seconds for phase in phases) / 3600,
        phases=phases,
        parts=measured.parts,
        arms=tuple(_arm(arm, mean) for arm in measured.arms),
    )


@dataclass(frozen=True)
class _Schedule:
    """The seconds of all jobs of a study."""

    data: float
    """Of the step that all others wait for."""
    preparation: list[float]
    trials: dict[str, list[float]]
    """By arm."""
    trainings: dict[str, list[float]]
    """Of winners that are trained again, by arm, without the test suite."""
    tests: dict[str, list[float]]
    """Of the same on the test suite."""
    ends: list[float]
    """Of the teacher and the starting student on the test suite."""
    devices: int
    """Of each trial, and of each training of a winner; any other job has one."""


def _schedule(
    config: StudyConfig,
    measured: StudyTiming,
    test_documents: int | None,
    where: Where,
    *,
    pruned: bool = False,
) -> _Schedule:
    steps = dict(measured.preparation)
    data = steps.pop("data", 0.0)
    budgets = trial_budgets(config.arms, config.trials, config.sampler, config.budget.trials)
    paces = {arm.arm: arm.at(where(arm)) for arm in measured.arms}
    part = min(1.0, config.pruner.documents * measured.tasks / measured.documents)
    trials = {
        arm.arm: _trials(config, arm, paces[arm.arm], budgets[arm.arm], part, pruned=pruned)
        for arm in measured.arms
    }
    trainings: dict[str, list[float]] = {name: [] for name in paces}
    tests: dict[str, list[float]] = {name: [] for name in paces}
    ends = []
    if config.confirms() and test_documents is not None:
        factor = test_documents / measured.documents
        student = sum(pace.scoring for pace in paces.values()) / len(paces)
        ends = [measured.teacher_scoring * factor, student * factor]
        for name, training in _trainings(config, measured, paces):
            trainings[name].append(paces[name].start + training + paces[name].scoring)
            tests[name].append(paces[name].scoring * factor)
    devices = config.compute.devices_per_trial
    return _Schedule(data, list(steps.values()), trials, trainings, tests, ends, devices)


def _looks(config: StudyConfig, arm: ArmTiming) -> tuple[float, ...]:
    """The shares of a training after which the pruner looks at trials of the arm."""
    return config.pruner.points() if config.arms[arm.arm].search else ()


def _trials(
    config: StudyConfig, arm: ArmTiming, pace: TrialTiming, count: int, part: float, *, pruned: bool
) -> list[float]:
    """The seconds of an arm's trials, one after the other.

    Args:
        config: The study.
        arm: The arm.
        pace: Of an average trial.
        count: How many trials.
        part: The share of the selection suite that is scored for the pruner.
        pruned: Whether the pruner ends every second trial that it may, at its first look.
    """
    looks = _looks(config, arm)
    whole = pace.seconds + len(looks) * part * pace.scoring
    if not pruned or not looks:
        return [whole] * count
    ended = pace.start + looks[0] * pace.training + part * pace.scoring
    spared = config.pruner.startup_trials
    return [
        ended if number >= spared and (number - spared) % 2 else whole for number in range(count)
    ]


def _trainings(
    config: StudyConfig, measured: StudyTiming, paces: Mapping[str, TrialTiming]
) -> Iterable[tuple[str, float]]:
    """Each training of a winner: its arm, and the seconds of its steps. See ``confirm``.

    Which GKD arm the claim will be about is not known yet: the dearest is taken.
    """
    methods = {arm.arm: arm.method for arm in measured.arms}
    each = config.confirm.seeds * config.confirm.top_k
    for at in config.compare_at:
        costs = {name: _cost(pace, at) for name, pace in paces.items()}
        gkd = [name for name, method in methods.items() if method == "gkd"]
        pairs = primary_comparisons(methods, max(gkd, key=costs.__getitem__, default=None))
        claimed = set(chain.from_iterable(pairs))
        most = max((costs[name] for name in claimed), default=0.0)
        for name, pace in paces.items():
            if at == "steps":
                yield from [(name, pace.training)] * each
            elif name in claimed and costs[name] and most > costs[name] * (1 + TOLERANCE):
                yield from [(name, pace.training * most / costs[name])] * each


def _cost(pace: TrialTiming, at: CostMeasure) -> float:
    return pace.steps * (pace.trained_tokens if at == "tokens" else pace.step)


def _phases(schedule: _Schedule, workers: int) -> tuple[Phase, ...]:
    before, devices = schedule.preparation, schedule.devices
    trained, tested = (sum(map(sum, x.values())) for x in (schedule.trainings, schedule.tests))
    both = {
        name: [training + test for training, test in zip(jobs, schedule.tests[name], strict=True)]
        for name, jobs in schedule.trainings.items()
    }
    # A winner is trained and tested by one job.
    wall = makespan(both, workers)
    share = tested / (trained + tested) if tested else 0.0
    found = (
        Phase(
            name="preparation",
            wall_seconds=schedule.data + makespan({"": before}, workers),
            device_seconds=schedule.data + sum(before),
        ),
        Phase(
            name="search",
            wall_seconds=makespan(schedule.trials, workers),
            device_seconds=sum(map(sum, schedule.trials.values())) * devices,
        ),
        Phase(
            name="confirmation",
            wall_seconds=(1 - share) * wall,
            device_seconds=trained * devices,
        ),
        Phase(
            name="test scoring",
            wall_seconds=share * wall + makespan({"": schedule.ends}, workers),
            device_seconds=tested * devices + sum(schedule.ends),
        ),
    )
    return tuple(phase for phase in found if phase.device_seconds)


def makespan(jobs: Mapping[str, Sequence[float]], workers: int) -> float:
    """Seconds until all jobs are done, started as a study starts them.

    Args:
        jobs: The seconds of each arm's jobs; arms take turns.
        workers: Jobs at a time.
    """
    ends = [0.0] * workers
    for turn in zip_longest(*jobs.values()):
        for seconds in turn:
            if seconds is not None:
                heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def _wall(schedule: _Schedule, workers: int) -> float:
    return sum(phase.wall_seconds for phase in _phases(schedule, workers))


def _arm(arm: ArmTiming, schedule: _Schedule) -> ArmTime:
    mean = arm.at(arm.mean)
    peaks = (arm.lightest.peak_bytes, arm.heaviest.peak_bytes)
    jobs = (schedule.trials[arm.arm], schedule.trainings[arm.arm], schedule.tests[arm.arm])
    return ArmTime(
        arm=arm.arm,
        method=arm.method,
        step_seconds=mean.step,
        tokens_per_second=mean.trained_tokens / mean.step if mean.step else 0.0,
        scoring_seconds=mean.scoring,
        trial_seconds=mean.seconds,
        trial_range=(arm.at(arm.low).seconds, arm.at(arm.high).seconds),
        trials=len(jobs[0]),
        trainings=len(jobs[1]),
        device_hours=sum(map(sum, jobs)) * schedule.devices / 3600,
        peak_bytes=max((size for size in peaks if size is not None), default=None),
        lightest=_costly(arm.lightest.params),
        heaviest=_costly(arm.heaviest.params),
    )


def _costly(params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    return {name: value for name, value in params.items() if name in COSTLY}
