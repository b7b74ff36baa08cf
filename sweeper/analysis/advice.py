"""Common advice on tuning GKD, and what this study's trials say of it.

A piece of advice is **confirmed** or **contradicted** only by a test: the trials that follow it are
set against those that do not, by the Mann–Whitney test with at least four trials on each side, and
p is at most 0.05 after Holm's correction for all advice that was tested. Two pieces have tests of
their own: whether a winner gains by more steps, the verdict's; whether the teacher leads, that of
two independent scores. Everything else **cannot be told**. All scored trials of the study's GKD
arms count. They differ in other settings too, and a sampler that learns repeats what did well, so
what is confirmed goes with good scores; it need not be their cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Literal

from scipy import stats

from sweeper.analysis.comparison import Comparison, scored_trials, selection_score
from sweeper.analysis.failures import failure_kind
from sweeper.analysis.longer_training import (
    LateProgress,
    LongerTraining,
    late_progress,
    longer_training,
)
from sweeper.analysis.stats.rank_tests import rank_sum_p
from sweeper.analysis.stats.significance import ALPHA, holm
from sweeper.analysis.verdict import Verdict
from sweeper.records import FailureKind, Record
from sweeper.records.study_record import StudyRecord, TrialRecord, number_of

Topic = Literal[
    "balanced_lmbda",
    "more_on_policy",
    "temperature",
    "balanced_beta",
    "longer_training",
    "shorter_rollouts",
    "lower_learning_rate",
    "longer_warmup",
    "smaller_batch",
    "no_dropout",
    "gkd_costs_more",
    "better_teacher",
    "larger_teacher",
]
Judgement = Literal["confirmed", "contradicted", "untold"]
TEACHER_RATIO = (2.0, 4.0)
"""How many times as large as the student a teacher should be, as is often said."""
_NEAR = 1e-9


class Contrast(Record):
    """Trials that follow a piece of advice against trials that do not."""

    measure: str
    """What is compared: ``score``, a setting, or what something took."""
    following: int
    others: int
    """How many trials."""
    following_median: float | None
    others_median: float | None
    following_better: bool | None
    """Whether the difference of the ranks is in favour of the advice; None if there is none."""
    p: float | None
    """Of the rank test; None with too few trials on a side."""


class TeacherLead(Record):
    """The teacher's score and that of the starting student."""

    teacher: float
    start: float
    standard_errors: float | None
    """The lead of the teacher, in those of the difference; unpaired in old records."""
    p: float | None


class TeacherSize(Record):
    """Parameters of the models."""

    teacher: int
    student: int


Evidence = Contrast | TeacherLead | TeacherSize | LongerTraining | LateProgress


class Advice(Record):
    """A piece of advice, and what is known of it here."""

    topic: Topic
    judgement: Judgement
    evidence: Evidence | None
    """None where the study has nothing to say."""
    p_adjusted: float | None
    """Of Holm's procedure over all advice that was tested."""


_Follows = Callable[[TrialRecord], bool | None]
"""Whether a trial follows a piece of advice; None if it is no case for it."""


def advice(
    record: StudyRecord, comparison: Comparison, verdict: Verdict | None
) -> tuple[Advice, ...]:
    """What the study says of each piece of advice; nothing without a scored GKD trial."""
    if comparison.best_gkd is None:
        return ()
    found = list(_evidence(record, comparison, verdict))
    tested = [(topic, p) for topic, evidence in found if (p := _p(evidence)) is not None]
    adjusted = dict(zip((t for t, _ in tested), holm([p for _, p in tested]), strict=True))
    return tuple(
        Advice(
            topic=topic,
            judgement=_judged(evidence, adjusted.get(topic)),
            evidence=evidence,
            p_adjusted=adjusted.get(topic),
        )
        for topic, evidence in found
    )


def _evidence(
    record: StudyRecord, comparison: Comparison, verdict: Verdict | None
) -> Iterator[tuple[Topic, Evidence | None]]:
    sign = 1.0 if record.higher_is_better else -1.0
    gkd = [arm for arm in record.arms if arm.method == "gkd"]
    pairs = [pair for arm in gkd for pair in scored_trials(arm)]
    trials = [trial for trial, _ in pairs]
    scores = [score.score for _, score in pairs]
    for topic, follows in _BY_SCORE.items():
        yield topic, _contrast("score", trials, scores, follows, sign)
    by_steps = _contrast("score", trials, scores, _upper_half(trials, "max_steps"), sign)
    if by_steps.following and by_steps.others:
        yield "longer_training", by_steps
    else:
        assert comparison.best_gkd is not None
        tried = longer_training(record, [comparison.best_gkd, *(arm.name for arm in gkd)])
        yield "longer_training", tried or late_progress(record, comparison.best_gkd, verdict)
    timed = [(trial, value) for trial in trials if (value := _rollout_seconds(trial)) is not None]
    yield (
        "shorter_rollouts",
        _contrast(
            "seconds of a rollout",
            [trial for trial, _ in timed],
            [value for _, value in timed],
            _lower_half([trial for trial, _ in timed], "max_new_tokens"),
            -1.0,
        ),
    )
    ended = [trial for arm in gkd for trial in arm.trials if trial.state in ("completed", "failed")]
    yield "lower_learning_rate", _failing(ended, "diverged", "learning_rate", safer=-1.0)
    yield "longer_warmup", _failing(ended, "diverged", "warmup_ratio", safer=1.0)
    yield (
        "smaller_batch",
        _failing(ended, "out_of_memory", "per_device_train_batch_size", safer=-1.0),
    )
    yield "gkd_costs_more", _costs(record)
    yield "better_teacher", _teacher_lead(record)
    yield "larger_teacher", _teacher_size(record)


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
"""Advice that is judged by scores alone."""


def _upper_half(trials: Sequence[TrialRecord], name: str) -> _Follows:
    lower = _lower_half(trials, name)

    def follows(trial: TrialRecord) -> bool | None:
        found = lower(trial)
        return None if found is None else not found

    return follows


def _lower_half(trials: Sequence[TrialRecord], name: str) -> _Follows:
    """Up to the middle of what the trials have; nobody follows if all have the same."""
    values = [value for trial in trials if (value := number_of(trial, name)) is not None]
    middle = median(values) if values else 0.0
    if values and middle == max(values):
        middle = max((value for value in values if value < middle), default=middle - 1)

    def follows(trial: TrialRecord) -> bool | None:
        value = number_of(trial, name)
        return None if value is None else value <= middle

    return follows


def _contrast(
    measure: str,
    trials: Sequence[TrialRecord],
    values: Sequence[float],
    follows: _Follows,
    sign: float,
) -> Contrast:
    """``sign`` is 1 where following the advice should give higher values, else -1."""
    groups: dict[bool, list[float]] = {True: [], False: []}
    for trial, value in zip(trials, values, strict=True):
        side = follows(trial)
        if side is not None:
            groups[side].append(value)
    return _compared(measure, groups[True], groups[False], sign)


def _compared(measure: str, ours: list[float], theirs: list[float], sign: float) -> Contrast:
    better: bool | None = None
    if ours and theirs:
        wins = float(stats.mannwhitneyu(ours, theirs, method="asymptotic").statistic)
        balance = sign * (wins - len(ours) * len(theirs) / 2)
        better = balance > 0 if balance else None
    return Contrast(
        measure=measure,
        following=len(ours),
        others=len(theirs),
        following_median=median(ours) if ours else None,
        others_median=median(theirs) if theirs else None,
        following_better=better,
        p=rank_sum_p(ours, theirs),
    )


def _failing(
    trials: Sequence[TrialRecord], kind: FailureKind, name: str, *, safer: float
) -> Contrast:
    """The setting of trials that completed against those that failed so.

    ``safer`` is 1 if higher values are said to be, else -1.
    """
    well, badly = [], []
    for trial in trials:
        value = number_of(trial, name)
        if value is None:
            continue
        if trial.state == "completed":
            well.append(value)
        elif failure_kind(trial) == kind:
            badly.append(value)
    return _compared(name, well, badly, safer)


def _rollout_seconds(trial: TrialRecord) -> float | None:
    outcome = trial.outcome
    if outcome is None or outcome.rollouts is None or not outcome.rollouts.length:
        return None
    rollouts = outcome.cost.generated_tokens / outcome.rollouts.length
    seconds = outcome.cost.seconds.get("rollout", 0.0)
    return seconds / rollouts if rollouts > 0 and seconds > 0 else None


def _costs(record: StudyRecord) -> Contrast:
    """Device-seconds of a step; GKD is said to take more."""
    ours: list[float] = []
    theirs: list[float] = []
    for arm in record.arms:
        for trial, _ in scored_trials(arm):
            cost = trial.outcome.cost if trial.outcome else None
            if cost and cost.steps > 0 and cost.device_seconds > 0:
                group = ours if arm.method == "gkd" else theirs
                group.append(cost.device_seconds / cost.steps)
    return _compared("device-seconds of a step", ours, theirs, 1.0)


def _teacher_lead(record: StudyRecord) -> TeacherLead | None:
    teacher, start = selection_score(record.teacher), selection_score(record.starting_student)
    if teacher is None or start is None:
        return None
    if (known := record.lead) is not None:
        return TeacherLead(
            teacher=teacher.score,
            start=start.score,
            standard_errors=known.value / known.stderr if known.stderr > 0 else None,
            p=known.p,
        )
    lead = (1.0 if record.higher_is_better else -1.0) * (teacher.score - start.score)
    stderr = math.hypot(teacher.stderr or 0.0, start.stderr or 0.0)
    errors = lead / stderr if stderr > 0 else None
    return TeacherLead(
        teacher=teacher.score,
        start=start.score,
        standard_errors=errors,
        p=None if errors is None else float(2 * stats.norm.sf(abs(errors))),
    )


def _teacher_size(record: StudyRecord) -> TeacherSize | None:
    sizes = [
        end.model_parameters if end else None for end in (record.teacher, record.starting_student)
    ]
    teacher, student = sizes
    return TeacherSize(teacher=teacher, student=student) if teacher and student else None


def _p(evidence: Evidence | None) -> float | None:
    # What a curve does at its end, and how large one teacher is, prove nothing of the advice.
    if evidence is None or isinstance(evidence, TeacherSize | LateProgress):
        return None
    return evidence.p


def _judged(evidence: Evidence | None, p_adjusted: float | None) -> Judgement:
    if evidence is None or p_adjusted is None or p_adjusted > ALPHA:
        return "untold"
    match evidence:
        case Contrast():
            favourable = evidence.following_better
        case TeacherLead():
            favourable = (evidence.standard_errors or 0.0) > 0
        case LongerTraining():
            favourable = evidence.gain > 0
        case _:
            favourable = None
    if favourable is None:
        return "untold"
    return "confirmed" if favourable else "contradicted"
