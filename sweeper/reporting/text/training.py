"""The sentences that say what a study's trials teach about training well."""

from __future__ import annotations

import math

from sweeper.analysis.advice import (
    TEACHER_RATIO,
    Advice,
    Contrast,
    Judgement,
    TeacherLead,
    TeacherSize,
    Topic,
)
from sweeper.analysis.failures import FailureGroup, Region
from sweeper.analysis.longer_training import LateProgress, LongerTraining
from sweeper.analysis.poor_quality import PoorQuality, Untried
from sweeper.analysis.recommendation import Recommendation
from sweeper.analysis.rollout_stats import (
    MANY_TRUNCATED,
    MUCH_LONGER,
    Quantity,
    RolloutStats,
    Trend,
    TrialRollouts,
)
from sweeper.analysis.stats.rank_tests import FEWEST_A_SIDE
from sweeper.reporting.text import formatting

QUANTITY_LABELS: dict[Quantity, str] = {
    "on_policy_share": "on-policy share realised",
    "length": "length of rollouts in tokens",
    "truncated_share": "rollouts cut at max_new_tokens",
}
"""What is on the axes."""

JUDGEMENTS: dict[Judgement, str] = {
    "confirmed": "confirmed here",
    "contradicted": "contradicted here",
    "untold": "cannot be told here",
}

ADVICE: dict[Topic, str] = {
    "balanced_lmbda": "Begin with half of the sequences on-policy (lmbda about 0.5).",
    "more_on_policy": "If quality is poor, sample more on-policy (lmbda 0.6 to 0.8).",
    "temperature": "Sample rollouts at a temperature of 0.7 to 0.9.",
    "balanced_beta": "Use the symmetric divergence (beta about 0.5).",
    "longer_training": "If quality is poor, train longer.",
    "shorter_rollouts": "If training is slow, reduce max_new_tokens.",
    "lower_learning_rate": "If training is unstable, lower the learning rate.",
    "longer_warmup": "If training is unstable, warm up for longer.",
    "smaller_batch": "If memory runs out, reduce the micro-batch.",
    "no_dropout": "Train without dropout (disable_dropout: true).",
    "gkd_costs_more": "GKD takes longer than offline distillation.",
    "better_teacher": "The teacher should be measurably better than the starting student.",
    "larger_teacher": "The teacher should be 2 to 4 times as large as the student.",
}
"""Common advice, as a sentence."""

_SIDES: dict[Topic, tuple[str, str]] = {
    "balanced_lmbda": ("with lmbda 0.4 to 0.6", "with another lmbda"),
    "more_on_policy": ("with lmbda 0.6 to 0.8", "with a lower lmbda"),
    "temperature": ("at a temperature of 0.7 to 0.9", "at another temperature"),
    "balanced_beta": ("with beta 0.4 to 0.6", "with another beta"),
    "longer_training": ("with more steps", "with fewer steps"),
    "shorter_rollouts": ("with a lower max_new_tokens", "with a higher max_new_tokens"),
    "lower_learning_rate": ("that completed", "that diverged"),
    "longer_warmup": ("that completed", "that diverged"),
    "smaller_batch": ("that completed", "that ran out of memory"),
    "no_dropout": ("without dropout", "with dropout"),
    "gkd_costs_more": ("with GKD", "offline"),
}
"""Which trials a contrast sets against which."""

UNTRIED: dict[Untried, str] = {
    "more_on_policy": "more on-policy sequences (lmbda 0.6 to 0.8)",
    "temperature": "a temperature of 0.7 to 0.9",
    "longer_training": "training for longer (max_steps)",
    "better_teacher": "a teacher that is measurably better than the starting student",
}
"""What to try where quality is poor, after "Try"."""

RULE = (
    "Advice is called confirmed or contradicted only if the trials that follow it and those that do"
    f" not, at least {FEWEST_A_SIDE} of each, differ by a rank test with p of at most 0.05 after"
    " Holm's correction for all advice tested here; what more steps give, and whether the teacher"
    " leads, have tests of their own. Trials differ in other settings too, and a"
    " search repeats what did well: what is confirmed goes with good results, and need not be their"
    " cause."
)
"""When advice is called what it is."""


def advice_evidence(one: Advice) -> str:
    """The numbers behind a judgement, as a sentence without its final stop."""
    evidence = one.evidence
    match evidence:
        case Contrast():
            return _contrast(one.topic, evidence) + _p(one.p_adjusted)
        case TeacherLead():
            told = f"the teacher scores {evidence.teacher:.3f}, the start {evidence.start:.3f}"
            if evidence.standard_errors is not None:
                told += f", {evidence.standard_errors:+.1f} standard errors"
            return told + _p(one.p_adjusted)
        case TeacherSize():
            return _size(evidence)
        case LateProgress():
            return (
                f"between steps {evidence.start} and {evidence.end} the winner of {evidence.arm}"
                f" lost {formatting.percent(evidence.fall)} of its distance from the teacher (mean"
                f" of {evidence.seeds} seeds, {formatting.p_value(evidence.p)}); what more steps do"
                " to scores was not tried"
            )
        case LongerTraining():
            low, high = evidence.interval
            return (
                f"the winner of {evidence.arm} gained {evidence.gain:+.3f} on the test suite (95 %"
                f" interval {low:+.3f} to {high:+.3f}; {evidence.seeds} seeds) with"
                f" {evidence.longer_steps:,} steps instead of {evidence.steps:,}"
            ) + _p(one.p_adjusted)
        case None:
            return "there is nothing here to tell it by"


def _contrast(topic: Topic, found: Contrast) -> str:
    ours, theirs = _SIDES[topic]
    if not found.following and not found.others:
        return "there is no trial to tell it by"
    if not found.following or not found.others:
        return f"there is no trial {theirs if found.following else ours} to compare with"
    small = max(abs(found.following_median or 0.0), abs(found.others_median or 0.0))
    return (
        f"median {found.measure} {_value(found.following_median, small)} in {found.following}"
        f" {_trials(found.following)} {ours}, {_value(found.others_median, small)} in"
        f" {found.others} {theirs}"
    )


def _size(found: TeacherSize) -> str:
    ratio = found.teacher / found.student
    low, high = TEACHER_RATIO
    place = "within that" if low <= ratio <= high else "outside of that"
    return (
        f"it is {ratio:.2g} times as large ({formatting.count(found.teacher)} against"
        f" {formatting.count(found.student)} parameters), which is {place}; what another size"
        " would do, one teacher does not say"
    )


def poor_quality_sentences(found: PoorQuality) -> str:
    """That GKD taught too little to measure, and what to try."""
    by = ""
    if found.standard_errors is not None:
        by = f", {found.standard_errors:+.1f} standard errors"
    told = (
        f"The best GKD trial, {found.arm} #{found.trial}, is not measurably better than the"
        f" starting student ({found.score:.3f} against {found.start:.3f}{by})."
    )
    if found.untried:
        told += f" Try {formatting.listed(map(UNTRIED.__getitem__, found.untried), 'or')}."
    return (
        f"{told} Whether teacher and student fit together, sweeper check says; what the student"
        " writes stands beside its trials' outcomes (samples.jsonl): the loss alone does not tell."
    )


def rollout_sentences(found: RolloutStats, *, reversed_scores: bool) -> list[str]:
    """How scores go with what was sampled."""
    told = []
    for trend in found.trends:
        what = QUANTITY_LABELS[trend.quantity]
        one = trend.correlation
        numbers = (
            f"rank correlation {one.value:+.2f}, 95 % interval {one.low:+.2f} to {one.high:+.2f},"
            f" {formatting.p_value(trend.p_adjusted)} after Holm's correction for"
            f" {len(found.trends)}; {one.pairs} trials"
        )
        if not trend.is_told:
            told.append(f"Whether scores go with the {what} cannot be told ({numbers}).")
            continue
        word = "better" if one.value > 0 else "worse"
        told.append(f"Scores are {word} where the {what} is higher ({numbers}).")
    if reversed_scores and told:
        told.append("Lower scores are better here; a positive correlation means better scores.")
    return told


def rollout_warnings(found: RolloutStats) -> list[str]:
    """What is wrong with the rollouts, if something is."""
    told = []
    if found.truncated:
        limits = [t.max_new_tokens for t in found.truncated if t.max_new_tokens is not None]
        at = f" (max_new_tokens {_span(limits)})" if limits else ""
        told.append(
            f"In {len(found.truncated)} of {len(found.trials)} GKD trials more than"
            f" {formatting.percent(MANY_TRUNCATED)} of the rollouts were cut at max_new_tokens{at}:"
            f" {_named(found.truncated)}. A student that trains on answers without an end may learn"
            " not to end; give rollouts more room."
        )
    if found.longer and found.reference_length is not None:
        lengths = [t.rollouts.length for t in found.longer if t.rollouts.length is not None]
        told.append(
            f"In {len(found.longer)} of {len(found.trials)} GKD trials rollouts were more than"
            f" {MUCH_LONGER:g} times as long as the references ({_span(lengths)} tokens against"
            f" {found.reference_length:.0f} on average): {_named(found.longer)}. The student runs"
            " on where the references end."
        )
    return told


def correlation_title(trend: Trend | None) -> str:
    """What stands above a panel."""
    if trend is None:
        return ""
    return (
        f"rank correlation {trend.correlation.value:+.2f}, {formatting.p_value(trend.p_adjusted)}"
    )


def failure_sentence(group: FailureGroup) -> str:
    """How many trials failed so, where, and what to try, without the final stop."""
    kind = formatting.FAILURE_NAMES[group.kind]
    told = (
        f"{len(group.trials)} of {group.ended} trials: {kind}"
        f" ({formatting.trial_numbers(group.trials)})"
    )
    if group.region:
        told += f"; {_region(group.region)}"
    if group.kind == "out_of_memory" and group.remedies:
        told += f". To need less, in the order to try: {'; '.join(group.remedies)}"
    elif group.remedies:
        told += f". Try {formatting.listed(group.remedies, 'or')}"
    return told


def _region(found: Region) -> str:
    sign = {"at least": "≥ ", "at most": "≤ ", "is": ""}[found.relation]
    value = formatting.number(found.value, 3)
    return (
        f"{found.failed_inside} of these {found.failed} had {found.setting} {sign}{value},"
        f" {found.others_inside} of the {found.others} others did"
        f" ({formatting.p_value(found.p)} for the best of all cuts)"
    )


def recommendation_reason(found: Recommendation) -> str:
    """Why this arm."""
    suite = "test suite" if found.basis == "test" else "selection suite"
    rivals = [rival.arm for rival in found.rivals]
    told = []
    if found.beaten:
        told.append(f"{found.arm} is better than {formatting.listed(found.beaten)} on the {suite}.")
    if rivals:
        among = formatting.listed([found.arm, *rivals])
        told.append(f"Which of {among} is better cannot be told on the {suite}.")
        cheapest = min(found.rivals, key=lambda rival: rival.device_seconds)
        ours = formatting.seconds(found.chosen.device_seconds)
        theirs = formatting.seconds(cheapest.device_seconds)
        if found.chosen.device_seconds <= cheapest.device_seconds:
            price = f"{found.arm} costs the least"
        else:
            price = f"{found.arm} costs within a tenth of the least"
        price += f": {ours} device-seconds a training, against {theirs} of {cheapest.arm}"
        if found.best.arm == found.arm:
            price += f"; and of these its score is the best, {found.best.score:.3f}"
        told.append(f"{price}.")
        if found.best.arm != found.arm:
            told.append(
                f"{found.best.arm} has the best score of them, {found.best.score:.3f} against"
                f" {found.chosen.score:.3f}, for {formatting.seconds(found.best.device_seconds)}"
                " device-seconds; more seeds or documents might tell."
            )
    elif not found.beaten:
        told.append(f"{found.arm} has the best score on the {suite}, {found.chosen.score:.3f}.")
    if found.basis == "selection":
        told.append("The suite that chose the trials chose the arm as well: this is no proof.")
    if found.several_objectives:
        told.append("This is by the score alone; the Pareto fronts have other choices.")
    return " ".join(told)


def _p(value: float | None) -> str:
    return "" if value is None else f", {formatting.p_value(value)}"


def _trials(number: int) -> str:
    return "trial" if number == 1 else "trials"


def _value(value: float | None, scale: float) -> str:
    """Three digits of what is compared, the same for both sides."""
    if value is None:
        return formatting.NOTHING
    if 0.01 <= scale < 1000:
        return f"{value:.{max(2 - math.floor(math.log10(scale)), 0)}f}"
    return formatting.number(float(value), 3)


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"


def _named(trials: tuple[TrialRollouts, ...]) -> str:
    arms = dict.fromkeys(trial.arm for trial in trials)
    return formatting.listed(
        f"{arm} {formatting.trial_numbers([t.number for t in trials if t.arm == arm])}"
        for arm in arms
    )
