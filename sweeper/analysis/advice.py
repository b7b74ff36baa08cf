"""Common advice on tuning GKD, tested on this study's trials.

The trials that follow a piece of advice are compared with those that do not, by the Mann–Whitney
test with at least ``FEWEST_A_SIDE`` trials a side. Advice is confirmed or contradicted if p is at
most 0.05 after Holm's correction for all advice that was tested. Trials differ in other settings
too, and a sampler repeats what did well: advice that is confirmed goes with good results, but need
not be their cause.
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


_Cases = Iterable[tuple[bool | None, float]]
"""True for a trial that follows the advice, None for one it is not about; and what is compared."""
_Contrast = tuple[Topic, str, float, _Cases]
"""``(topic, measure, sign, cases)``; ``sign`` is 1 if advice promises higher values, else -1."""


def advice(record: StudyRecord) -> tuple[Advice, ...]:
    """Test each piece of advice; return nothing without a scored GKD trial."""
    if not any(scored_trials(arm) for arm in record.arms if arm.method == "gkd"):
        return ()
    tested = [_tested(*contrast) for contrast in _contrasts(record)]
    adjusted = iter(holm([one.p for one, _ in tested if one.p is not None]))
    return tuple(
        one if one.p is None else _judged(one, better, next(adjusted)) for one, better in tested
    )


def _contrasts(record: StudyRecord) -> Iterator[_Contrast]:
    arms = [arm for arm in record.arms if arm.method == "gkd"]
    scored = [(trial, score.score) for arm in arms for trial, score in scored_trials(arm)]
    trials = [trial for trial, _ in scored]
    sign = 1.0 if record.higher_is_better else -1.0
    for topic, follows in _BY_SCORE.items():
        yield topic, "score", sign, [(follows(trial), score) for trial, score in scored]
    longer = _above_middle("max_steps", trials)
    yield "longer_training", "score", sign, [(longer(trial), score) for trial, score in scored]
    timed = [(trial, time) for trial in trials if (time := _rollout_seconds(trial)) is not None]
    higher = _above_middle("max_new_tokens", [trial for trial, _ in timed])
    cases = [(None if (high := higher(t)) is None else not high, time) for t, time in timed]
    yield "shorter_rollouts", "seconds of a rollout", -1.0, cases
    ended = [trial for arm in arms for trial in arm.trials]
    for topic, kind, name, safer in _BY_FAILURE:
        yield topic, name, safer, _failing(ended, kind, name)
    yield "gkd_costs_more", "device-seconds of a step", 1.0, _step_seconds(record)


def _tested(topic: Topic, measure: str, sign: float, cases: _Cases) -> tuple[Advice, bool | None]:
    """Compare the two sides; also return True if the ranks favour the advice, None if neither."""
    groups: dict[bool | None, list[float]] = {True: [], False: [], None: []}
    for side, value in cases:
        groups[side].append(value)
    ours, theirs = groups[True], groups[False]
    better: bool | None = None
    p = None
    if min(len(ours), len(theirs)) >= FEWEST_A_SIDE:
        wins, p = _mann_whitney(ours, theirs)
        balance = sign * (wins - len(ours) * len(theirs) / 2)
        better = balance > 0 if balance else None
    tested = Advice(
        topic=topic,
        judgement="untested",
        measure=measure,
        following=len(ours),
        others=len(theirs),
        following_median=median(ours) if ours else None,
        others_median=median(theirs) if theirs else None,
        p=p,
        p_adjusted=None,
    )
    return tested, better


def _mann_whitney(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Return U and p, exact for few trials; the permutations are seeded."""
    distinct, pooled = len({*ours, *theirs}), len(ours) + len(theirs)
    if distinct == 1:
        return len(ours) * len(theirs) / 2, 1.0
    method: str | stats.PermutationMethod = "asymptotic"
    if pooled <= MOST_PERMUTED:
        permuted = stats.PermutationMethod(n_resamples=9_999, rng=np.random.default_rng(0))
        method = "exact" if distinct == pooled else permuted
    found = stats.mannwhitneyu(ours, theirs, method=method)
    return float(found.statistic), min(float(found.pvalue), 1.0)


def _judged(tested: Advice, better: bool | None, p_adjusted: float) -> Advice:
    judgement: Judgement = "unclear"
    if p_adjusted <= ALPHA and better is not None:
        judgement = "confirmed" if better else "contradicted"
    return tested.model_copy(update={"judgement": judgement, "p_adjusted": p_adjusted})


_Follows = Callable[[TrialRecord], bool | None]


def _between(name: str, low: float, high: float) -> _Follows:
    def follows(trial: TrialRecord) -> bool | None:
        value = number_of(trial, name)
        return None if value is None else low - _NEAR <= value <= high + _NEAR

    return follows


def _more_on_policy(trial: TrialRecord) -> bool | None:
    lmbda = number_of(trial, "lmbda")
    # The advice is about students that sample less.
    return None if lmbda is None or lmbda > 0.8 + _NEAR else lmbda >= 0.6 - _NEAR


def _warm(trial: TrialRecord) -> bool | None:
    # Without rollouts the temperature changes nothing.
    return _between("temperature", 0.7, 0.9)(trial) if number_of(trial, "lmbda") != 0 else None


def _no_dropout(trial: TrialRecord) -> bool | None:
    value = trial.params.get("disable_dropout", trial.settings.get("disable_dropout"))
    return value if isinstance(value, bool) else None


_BY_SCORE: dict[Topic, _Follows] = {
    "balanced_lmbda": _between("lmbda", 0.4, 0.6),
    "more_on_policy": _more_on_policy,
    "temperature": _warm,
    "balanced_beta": _between("beta", 0.4, 0.6),
    "no_dropout": _no_dropout,
}
"""Advice on a setting that is judged by scores."""

_BY_FAILURE: tuple[tuple[Topic, FailureKind, str, float], ...] = (
    ("lower_learning_rate", "diverged", "learning_rate", -1.0),
    ("longer_warmup", "diverged", "warmup_ratio", 1.0),
    ("smaller_batch", "out_of_memory", "per_device_train_batch_size", -1.0),
)
"""Advice on failures: the setting of trials that completed against those that failed so."""


def _above_middle(name: str, trials: Sequence[TrialRecord]) -> _Follows:
    """Tell trials above the middle of a setting from the rest; all are if the setting is fixed."""
    values = [value for trial in trials if (value := number_of(trial, name)) is not None]
    middle = median(values) if values else 0.0
    if values and middle == max(values):
        middle = max((value for value in values if value < middle), default=middle - 1)

    def follows(trial: TrialRecord) -> bool | None:
        value = number_of(trial, name)
        return None if value is None else value > middle

    return follows


def _failing(trials: Sequence[TrialRecord], kind: FailureKind, name: str) -> _Cases:
    for trial in trials:
        value = number_of(trial, name)
        if value is not None and trial.state == "completed":
            yield True, value
        elif value is not None and failure_kind(trial) == kind:
            yield False, value


def _rollout_seconds(trial: TrialRecord) -> float | None:
    outcome = trial.outcome
    if outcome is None or outcome.rollouts is None or not outcome.rollouts.length:
        return None
    rollouts = outcome.cost.generated_tokens / outcome.rollouts.length
    seconds = outcome.cost.seconds.get("rollout", 0.0)
    return seconds / rollouts if rollouts > 0 and seconds > 0 else None


def _step_seconds(record: StudyRecord) -> _Cases:
    for arm in record.arms:
        for trial, _ in scored_trials(arm):
            cost = trial.outcome.cost if trial.outcome else None
            if cost and cost.steps > 0 and cost.device_seconds > 0:
                yield arm.method == "gkd", cost.device_seconds / cost.steps
