"""Common advice on tuning GKD, tested on this study's trials.

The Mann–Whitney test compares the trials that follow a piece of advice with those that do not. A
sampler repeats what did well: advice that is confirmed need not be the cause of good results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import Literal

import numpy as np
from scipy import stats

from sweeper.analysis.comparison import scored_trials
from sweeper.analysis.failures import failure_kind
from sweeper.analysis.stats.significance import ALPHA, holm
from sweeper.records import FailureKind, Record
from sweeper.records.study_record import StudyRecord, TrialRecord, number_of

Topic = Literal[
    "balanced_lmbda",
    "more_on_policy",
    "temperature",
    "balanced_beta",
    "no_dropout",
    "longer_training",
    "shorter_rollouts",
    "lower_learning_rate",
    "longer_warmup",
    "smaller_batch",
    "gkd_costs_more",
]
Judgement = Literal["confirmed", "contradicted", "unclear", "untested"]
FEWEST_A_SIDE = 4
"""Fewest trials on a side: with three on each, p is at least 0.1."""
MOST_PERMUTED = 60
"""Most trials of a contrast whose p is exact, or that of permutations where values are equal."""
_NEAR = 1e-9


class Advice(Record):
    """The trials that follow a piece of advice against those that do not."""

    topic: Topic
    judgement: Judgement
    measure: str
    """What is compared: ``score``, a setting, or a measured quantity."""
    following: int
    others: int
    following_median: float | None
    others_median: float | None
    p: float | None
    """Two-sided p of the Mann–Whitney test; None with too few trials on a side."""
    p_adjusted: float | None
    """``p`` after Holm's correction for all advice that was tested."""


_Contrast = tuple[Topic, str, float, list[float], list[float]]
"""``(topic, measure, sign, following, others)``: ``sign`` is 1 if advice promises higher values,
else -1; then the values of both sides."""
_Sides = tuple[list[float], list[float]]


def advice(record: StudyRecord) -> tuple[Advice, ...]:
    """Test each piece of advice; return nothing without a scored GKD trial."""
    if not any(scored_trials(arm) for arm in record.arms if arm.method == "gkd"):
        return ()
    contrasts = list(_contrasts(record))
    tests = [_mann_whitney(ours, theirs) for *_, ours, theirs in contrasts]
    adjusted = iter(holm([test[1] for test in tests if test is not None]))
    found = []
    for (topic, measure, sign, ours, theirs), test in zip(contrasts, tests, strict=True):
        judgement: Judgement = "untested"
        p = p_adjusted = None
        if test is not None:
            ahead, p = test
            p_adjusted = next(adjusted)
            judgement = "unclear"
            if p_adjusted <= ALPHA and ahead:
                judgement = "confirmed" if sign * ahead > 0 else "contradicted"
        found.append(
            Advice(
                topic=topic,
                judgement=judgement,
                measure=measure,
                following=len(ours),
                others=len(theirs),
                following_median=median(ours) if ours else None,
                others_median=median(theirs) if theirs else None,
                p=p,
                p_adjusted=p_adjusted,
            )
        )
    return tuple(found)


def _contrasts(record: StudyRecord) -> Iterator[_Contrast]:
    arms = [arm for arm in record.arms if arm.method == "gkd"]
    scored = [(trial, score.score) for arm in arms for trial, score in scored_trials(arm)]
    sign = 1.0 if record.higher_is_better else -1.0
    for topic, follows in _BY_SCORE.items():
        yield topic, "score", sign, *_split((follows(trial), score) for trial, score in scored)
    yield "longer_training", "score", sign, *_above_middle("max_steps", scored)
    trials = [trial for trial, _ in scored]
    timed = [(trial, time) for trial in trials if (time := _rollout_seconds(trial)) is not None]
    longer, shorter = _above_middle("max_new_tokens", timed)
    yield "shorter_rollouts", "seconds of a rollout", -1.0, shorter, longer
    ended = [trial for arm in arms for trial in arm.trials]
    for topic, kind, name, safer in _BY_FAILURE:
        values = [(t, value) for t in ended if (value := number_of(t, name)) is not None]
        completed = [value for trial, value in values if trial.state == "completed"]
        yield topic, name, safer, completed, [v for t, v in values if failure_kind(t) == kind]
    costs = [
        (arm.method == "gkd", trial.outcome.cost)
        for arm in record.arms
        for trial, _ in scored_trials(arm)
        if trial.outcome and trial.outcome.cost.steps > 0 and trial.outcome.cost.device_seconds > 0
    ]
    by_step = _split((gkd, cost.device_seconds / cost.steps) for gkd, cost in costs)
    yield "gkd_costs_more", "device-seconds of a step", 1.0, *by_step


def _split(cases: Iterable[tuple[bool | None, float]]) -> _Sides:
    """Split values by True and False, without those that the advice is not about (None)."""
    cases = list(cases)
    return [v for side, v in cases if side], [v for side, v in cases if side is False]


def _mann_whitney(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float] | None:
    """Return U above its mean, and p; None with too few trials. The permutations are seeded."""
    if min(len(ours), len(theirs)) < FEWEST_A_SIDE:
        return None
    distinct, pooled = len({*ours, *theirs}), len(ours) + len(theirs)
    if distinct == 1:
        return 0.0, 1.0
    method: str | stats.PermutationMethod = "asymptotic"
    if pooled <= MOST_PERMUTED:
        permuted = stats.PermutationMethod(n_resamples=9_999, rng=np.random.default_rng(0))
        method = "exact" if distinct == pooled else permuted
    found = stats.mannwhitneyu(ours, theirs, method=method)
    return float(found.statistic) - len(ours) * len(theirs) / 2, min(float(found.pvalue), 1.0)


def _between(trial: TrialRecord, name: str, low: float, high: float) -> bool | None:
    value = number_of(trial, name)
    return None if value is None else low - _NEAR <= value <= high + _NEAR


def _more_on_policy(trial: TrialRecord) -> bool | None:
    # The advice is about students that sample less.
    return _between(trial, "lmbda", 0.6, 0.8) if _between(trial, "lmbda", 0.0, 0.8) else None


def _warm(trial: TrialRecord) -> bool | None:
    # Without rollouts the temperature changes nothing.
    return _between(trial, "temperature", 0.7, 0.9) if number_of(trial, "lmbda") != 0 else None


def _no_dropout(trial: TrialRecord) -> bool | None:
    value = trial.params.get("disable_dropout", trial.settings.get("disable_dropout"))
    return value if isinstance(value, bool) else None


_BY_SCORE: dict[Topic, Callable[[TrialRecord], bool | None]] = {
    "balanced_lmbda": lambda trial: _between(trial, "lmbda", 0.4, 0.6),
    "more_on_policy": _more_on_policy,
    "temperature": _warm,
    "balanced_beta": lambda trial: _between(trial, "beta", 0.4, 0.6),
    "no_dropout": _no_dropout,
}
"""Advice on a setting that is judged by scores."""

_BY_FAILURE: tuple[tuple[Topic, FailureKind, str, float], ...] = (
    ("lower_learning_rate", "diverged", "learning_rate", -1.0),
    ("longer_warmup", "diverged", "warmup_ratio", 1.0),
    ("smaller_batch", "out_of_memory", "per_device_train_batch_size", -1.0),
)
"""Advice on failures: the setting of trials that completed against those that failed so."""


def _above_middle(name: str, cases: Sequence[tuple[TrialRecord, float]]) -> _Sides:
    """Split values by a setting above its middle or not; all are above if it is fixed."""
    known = [(number, value) for t, value in cases if (number := number_of(t, name)) is not None]
    numbers = [number for number, _ in known]
    middle = median(numbers or [0.0])
    if numbers and middle == max(numbers):
        middle = max((number for number in numbers if number < middle), default=middle - 1)
    return _split((number > middle, value) for number, value in known)


def _rollout_seconds(trial: TrialRecord) -> float | None:
    outcome = trial.outcome
    if outcome is None or outcome.rollouts is None or not outcome.rollouts.length:
        return None
    rollouts = outcome.cost.generated_tokens / outcome.rollouts.length
    seconds = outcome.cost.seconds.get("rollout", 0.0)
    return seconds / rollouts if rollouts > 0 and seconds > 0 else None
