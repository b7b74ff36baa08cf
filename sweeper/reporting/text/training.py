"""Sentences on what a study's trials teach about training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sweeper.analysis.advice import FEWEST_A_SIDE, Advice, Topic
from sweeper.analysis.failures import FailureGroup, RescoredTrials
from sweeper.analysis.recommendation import Recommendation
from sweeper.analysis.rollout_stats import (
    MANY_TRUNCATED,
    MUCH_LONGER,
    CollapsedTraining,
    RolloutStats,
    TrialRollouts,
)
from sweeper.records import CollapseKind
from sweeper.reporting.text import formatting

ADVICE: dict[Topic, str] = {
    "balanced_lmbda": "Begin with half of the sequences on-policy (lmbda about 0.5).",
    "more_on_policy": "If quality is poor, sample more on-policy (lmbda 0.6 to 0.8).",
    "temperature": "Sample rollouts at a temperature of 0.7 to 0.9.",
    "balanced_beta": "Use the symmetric divergence (beta about 0.5).",
    "no_dropout": "Train without dropout (disable_dropout: true).",
    "longer_training": "If quality is poor, train longer.",
    "shorter_rollouts": "If training is slow, reduce max_new_tokens.",
    "lower_learning_rate": "If training is unstable, lower the learning rate.",
    "longer_warmup": "If training is unstable, warm up for longer.",
    "smaller_batch": "If memory runs out, reduce the micro-batch.",
    "gkd_costs_more": "GKD takes longer than offline distillation.",
}
"""Common advice as sentences."""

_SHORT: dict[Topic, str] = {
    "balanced_lmbda": "lmbda about 0.5",
    "more_on_policy": "lmbda 0.6 to 0.8",
    "temperature": "temperature 0.7 to 0.9",
    "balanced_beta": "beta about 0.5",
    "no_dropout": "no dropout",
    "longer_training": "longer training",
    "shorter_rollouts": "a lower max_new_tokens",
    "lower_learning_rate": "a lower learning rate",
    "longer_warmup": "a longer warmup",
    "smaller_batch": "a smaller micro-batch",
    "gkd_costs_more": "the time that GKD takes",
}
"""Common advice as noun phrases."""

_SIDES: dict[Topic, tuple[str, str]] = {
    "balanced_lmbda": ("with lmbda 0.4 to 0.6", "with another lmbda"),
    "more_on_policy": ("with lmbda 0.6 to 0.8", "with a lower lmbda"),
    "temperature": ("at a temperature of 0.7 to 0.9", "at another temperature"),
    "balanced_beta": ("with beta 0.4 to 0.6", "with another beta"),
    "no_dropout": ("without dropout", "with dropout"),
    "longer_training": ("with more steps", "with fewer steps"),
    "shorter_rollouts": ("with a lower max_new_tokens", "with a higher max_new_tokens"),
    "lower_learning_rate": ("that completed", "that diverged"),
    "longer_warmup": ("that completed", "that diverged"),
    "smaller_batch": ("that completed", "that ran out of memory"),
    "gkd_costs_more": ("with GKD", "offline"),
}
"""Trials that follow the advice, and those that do not."""

RULE = (
    f"Advice is confirmed or contradicted if at least {FEWEST_A_SIDE} trials that follow it differ"
    f" from at least {FEWEST_A_SIDE} that do not: Mann–Whitney test, p at most 0.05 after Holm's"
    " correction. Trials differ in other settings too, so advice that is confirmed need not be the"
    " cause of good results."
)
"""Rule behind a judgement, below the table."""


def judged(advice: Sequence[Advice]) -> list[Advice]:
    """Return the advice that the trials confirm or contradict."""
    return [one for one in advice if one.judgement in ("confirmed", "contradicted")]


def advice_evidence(advice: Advice) -> str:
    """Return the numbers behind a judgement, without the final stop."""
    ours, theirs = _SIDES[advice.topic]
    scale = max(abs(advice.following_median or 0.0), abs(advice.others_median or 0.0))
    p = "" if advice.p_adjusted is None else f", {formatting.p_value(advice.p_adjusted)}"
    return (
        f"median {advice.measure} {_value(advice.following_median, scale)} in {advice.following}"
        f" trials {ours}, {_value(advice.others_median, scale)} in {advice.others} {theirs}{p}"
    )


def open_advice_sentence(advice: Sequence[Advice]) -> str:
    """List the advice that the trials could not test or decide; empty if there is none."""
    parts = []
    texts = {"untested": "too few trials to test", "unclear": "tested without a clear result"}
    for judgement, text in texts.items():
        if topics := [_SHORT[one.topic] for one in advice if one.judgement == judgement]:
            parts.append(f"{text}: {formatting.listed(topics)}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


_COLLAPSE: dict[CollapseKind, str] = {
    "length": "Length explosion",
    "endless": "Answers that do not end",
    "repetition": "Collapse into repetition",
    "entropy": "Entropy collapse",
}
"""Names of the known failures of on-policy training."""


def rollout_warnings(stats: RolloutStats | None) -> list[str]:
    """Return the warnings about collapsed, truncated and overlong rollouts."""
    if stats is None:
        return []
    warnings = []
    for kind, title in _COLLAPSE.items():
        if cases := [case for case in stats.collapsed if case.sign.kind == kind]:
            trials = tuple(case for case in cases if case.seed is None)
            again = len(cases) - len(trials)
            where = [_named(trials)] if trials else []
            where += [f"{again} confirmation run{'s' if again > 1 else ''}"] if again else []
            first = f"{cases[0].arm} #{cases[0].number}"
            warnings.append(
                f"{title} in {formatting.listed(where)}. In {first}, {cases[0].sign.told()}"
            )
    if stats.truncated:
        limits = [t.max_new_tokens for t in stats.truncated if t.max_new_tokens is not None]
        at = f" (max_new_tokens {_span(limits)})" if limits else ""
        warnings.append(
            f"In {len(stats.truncated)} of {stats.trials} GKD trials more than"
            f" {formatting.percent(MANY_TRUNCATED)} of the rollouts were cut at max_new_tokens{at}:"
            f" {_named(stats.truncated)}. A student that trains on answers without an end may learn"
            " not to end; give rollouts more room."
        )
    if stats.longer and stats.reference_length is not None:
        lengths = [t.rollouts.length for t in stats.longer if t.rollouts.length is not None]
        warnings.append(
            f"In {len(stats.longer)} of {stats.trials} GKD trials rollouts were more than"
            f" {MUCH_LONGER:g} times as long as the references ({_span(lengths)} tokens against"
            f" {stats.reference_length:.0f} on average): {_named(stats.longer)}. The student runs"
            " on where the references end."
        )
    if stats.differing:
        differences = [t.rollouts.logprob_diff or 0.0 for t in stats.differing]
        warnings.append(
            f"In {len(stats.differing)} of {stats.trials} GKD trials the engine of rollouts and the"
            f" training differed in the log-probability of a token by {max(differences):.2g} nats"
            f" on average, at most: {_named(stats.differing)}. That is more than rounding, so these"
            " rollouts were not the student's own; compare with rollouts.engine: sweeper."
        )
    return warnings


def failure_sentence(group: FailureGroup) -> str:
    """Count the failures of a group and name remedies, without the final stop."""
    kind = formatting.FAILURE_NAMES[group.kind]
    numbers = formatting.trial_numbers(group.trials)
    sentence = f"{len(group.trials)} of {group.ended} trials: {kind} ({numbers})"
    if group.kind == "out_of_memory" and group.remedies:
        sentence += f". To need less, in the order to try: {'; '.join(group.remedies)}"
    elif group.remedies:
        sentence += f". Try {formatting.listed(group.remedies, 'or')}"
    return sentence


def rescored_sentence(group: RescoredTrials) -> str:
    """Count the trials that were scored again, and name the key, without the final stop."""
    jobs = []
    if group.trials:
        jobs.append(f"trials {formatting.trial_numbers(group.trials)}")
    if group.confirmation_runs:
        jobs.append(f"{group.confirmation_runs} confirmation runs")
    return (
        f"{formatting.listed(jobs)} ran out of memory while they were scored, and were scored again"
        " in smaller batches, without another training. To save the first attempt write evaluation:"
        f" {{batch_size: {group.batch_size}}}"
    )


def recommendation_reason(choice: Recommendation) -> str:
    """Explain why this arm is recommended."""
    suite = "test suite" if choice.basis == "test" else "selection suite"
    reasons = []
    if choice.beaten:
        losers = formatting.listed(choice.beaten)
        reasons.append(f"{choice.arm} is better than {losers} on the {suite}.")
    if choice.rivals:
        names = [choice.arm, *(rival.arm for rival in choice.rivals)]
        others = formatting.listed([name for name in names if name != choice.best.arm])
        reasons.append(f"The {suite} does not separate {choice.best.arm} from {others}.")
        cheapest = min(choice.rivals, key=lambda rival: rival.device_seconds)
        ours = formatting.seconds(choice.chosen.device_seconds)
        theirs = formatting.seconds(cheapest.device_seconds)
        least = choice.chosen.device_seconds <= cheapest.device_seconds
        price = f"{choice.arm} costs {'' if least else 'within a tenth of '}the least"
        price += f": {ours} device-seconds a training, against {theirs} of {cheapest.arm}"
        if not all(rival.timed for rival in (choice.chosen, *choice.rivals)):
            reasons.append(
                f"{choice.arm} has the best score of them, {choice.best.score:.3f}; their costs do"
                " not compare, because trials shared a GPU."
            )
        elif choice.best.arm == choice.arm:
            best = f"{choice.best.score:.3f}"
            reasons.append(f"{price}; of these arms it also has the best score, {best}.")
        else:
            reasons.append(
                f"{price}. {choice.best.arm} has the best score of them, {choice.best.score:.3f}"
                f" against {choice.chosen.score:.3f}, for"
                f" {formatting.seconds(choice.best.device_seconds)} device-seconds; more seeds or"
                " documents might separate them."
            )
    elif not choice.beaten:
        score = f"{choice.chosen.score:.3f}"
        reasons.append(f"{choice.arm} has the best score on the {suite}, {score}.")
    if choice.basis == "selection":
        reasons.append("The suite that chose the trials also chose the arm: this is no proof.")
    if choice.several_objectives:
        reasons.append("Only the score decided; the Pareto fronts offer other choices.")
    return " ".join(reasons)


def _value(value: float | None, scale: float) -> str:
    """Format a median with three digits at the scale of both sides."""
    if value is None:
        return formatting.NOTHING
    if 0.01 <= scale < 1000:
        return f"{value:.{max(2 - math.floor(math.log10(scale)), 0)}f}"
    return formatting.number(float(value), 3)


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"


def _named(trials: Sequence[TrialRollouts | CollapsedTraining]) -> str:
    arms = dict.fromkeys(trial.arm for trial in trials)
    return formatting.listed(
        f"{arm} {formatting.trial_numbers([t.number for t in trials if t.arm == arm])}"
        for arm in arms
    )
