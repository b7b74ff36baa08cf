"""Diagnosis of a teacher and a starting student: means by token, and what is worrying.

Intervals are for other prompts: tokens of one answer are no independent observations. A mean by
token is a ratio of two sums over prompts, with Fieller's interval; a share of prompts has Wilson's.

A small number of thresholds decides what to warn of, each with its reason:

- ``SHARED_MASS``: in on-policy distillation that succeeds, the tokens that both models rank on top
  are reported to hold 97 to 99 % of the probability (Li et al., "Rethinking On-Policy Distillation
  of Large Language Models", 2026, https://arxiv.org/abs/2604.13016). With less than 90 %, at least
  three times as much lies elsewhere.
- ``LITTLE``: below 0.01 nats a token, rounding to bfloat16 is a large part of what is left.
- ``HALF`` of the prompts: more than half begin otherwise, or think only in one model.
- ``MANY_TRUNCATED`` and ``MUCH_LONGER``, as for rollouts in training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from sweeper.analysis.rollout_stats import MANY_TRUNCATED, MUCH_LONGER
from sweeper.analysis.stats.crossed_effects import Documents, estimate
from sweeper.analysis.stats.fieller import ratio_interval
from sweeper.records import Outcome, ProbedPair, Reading, Record, SampledAnswer
from sweeper.records.pair import QUARTERS

SHARED_MASS = 0.9
"""Probability of the shared top tokens below which a student learns little of the teacher."""
LITTLE = 0.01
"""Nats a token below which the two models are the same."""
HALF = 0.5
"""Share of the prompts above which the models differ in their first token, or in thinking."""

Model = Literal["student", "teacher"]
Concern = Literal[
    "little_shared", "nothing_to_learn", "drift", "first_token", "truncated", "length", "marks"
]
"""Kinds of what is worrying in a pair."""


class Mean(Record):
    """A mean with its 95 % interval for other prompts."""

    value: float
    low: float | None = None
    """Lower end; None where there are too few prompts for an interval."""
    high: float | None = None


class AnswersSummary(Record):
    """One model's answers, as both models read them; log-probabilities and entropies in nats."""

    tokens: int
    """Tokens of all answers."""
    log_probability: dict[Model, Mean]
    """Mean log-probability of a token, by the model that reads."""
    divergence: Mean
    """Log-probability of a token by its own model minus that by the other: an estimate of the
    KL divergence of the other from the own, on these answers."""
    entropy: dict[Model, tuple[Mean | None, ...]]
    """Mean entropy of the next token by quarter of an answer; None for one without tokens."""
    shared_mass: dict[Model, Mean]
    """Mean probability of the top tokens that both models share."""
    shared_tokens: Mean
    """Mean share of the top tokens that are in both models' lists."""
    length: Mean
    """Tokens of an answer."""
    ended: Mean
    """Share of the answers that an end token ended; the others were cut."""
    thinking: dict[str, int]
    """Answers with a mark of thinking, by mark."""
    thinks: float
    """Share of the answers with a mark of thinking."""
    template: dict[str, int]
    """Answers with a mark of a chat template, by mark."""


class PairSummary(Record):
    """A teacher and the starting student on the same prompts."""

    teacher: str
    prompts: int
    max_new_tokens: int
    """Most tokens of an answer here."""
    rollout_limit: int | None
    """Most tokens of a rollout in the study's trainings; None if no arm samples."""
    top: int
    vocabulary: int
    answers: dict[Model, AnswersSummary]
    """Answers by the model that gave them."""
    other_first_token: Mean
    """Share of the prompts after which the models' most likely first tokens differ."""
    drift: Mean | None
    """Rise of the teacher's entropy, from the first to the last quarter, along the student's
    answers minus that along its own; None where too few answers have as many tokens."""
    concerns: tuple[Concern, ...] = ()

    @property
    def says_little_of_overlap(self) -> bool:
        """True if the top tokens are half of the vocabulary or more, and so must be shared."""
        return self.vocabulary <= 2 * self.top


def summarize_pairs(outcome: Outcome) -> tuple[PairSummary, ...]:
    """Return the summaries of a diagnosis, the study's own teacher first."""
    found = outcome.pair
    if found is None:
        return ()
    request = found.request
    summaries = []
    for pair in found.pairs:
        alike = [prompt.same_first_token for prompt in pair.prompts]
        summary = PairSummary(
            teacher=pair.teacher,
            prompts=len(alike),
            max_new_tokens=request.max_new_tokens,
            rollout_limit=request.rollout_limit,
            top=found.top,
            vocabulary=found.vocabulary,
            answers={
                "student": _answers([prompt.student for prompt in pair.prompts], "student"),
                "teacher": _answers([prompt.teacher for prompt in pair.prompts], "teacher"),
            },
            other_first_token=_share([not same for same in alike]),
            drift=_drift(pair),
        )
        summaries.append(summary.model_copy(update={"concerns": tuple(_concerns(summary))}))
    return tuple(summaries)


def pair_values(outcome: Outcome) -> dict[str, float]:
    """Return the numbers of the study's own teacher by name, for charts over many studies."""
    pair, *_ = summarize_pairs(outcome)
    values = {"first_token_disagreement": pair.other_first_token.value}
    for side, answers in pair.answers.items():
        values |= {
            f"{side}_answers/log_probability_student": answers.log_probability["student"].value,
            f"{side}_answers/log_probability_teacher": answers.log_probability["teacher"].value,
            f"{side}_answers/divergence": answers.divergence.value,
            f"{side}_answers/shared_mass_student": answers.shared_mass["student"].value,
            f"{side}_answers/shared_mass_teacher": answers.shared_mass["teacher"].value,
            f"{side}_answers/shared_tokens": answers.shared_tokens.value,
            f"{side}_answers/length": answers.length.value,
            f"{side}_answers/ended": answers.ended.value,
            f"{side}_answers/thinks": answers.thinks,
        }
        for reader, entropies in answers.entropy.items():
            for number, entropy in enumerate(entropies, start=1):
                if entropy is not None:
                    values[f"{side}_answers/entropy_{reader}_quarter_{number}"] = entropy.value
    return values


def _answers(answers: Sequence[SampledAnswer], own: Model) -> AnswersSummary:
    tokens = [answer.tokens for answer in answers]
    read: dict[Model, list[Reading]] = {
        "student": [answer.student for answer in answers],
        "teacher": [answer.teacher for answer in answers],
    }
    logs = {name: [r.log_probability for r in readings] for name, readings in read.items()}
    other: Model = "teacher" if own == "student" else "student"
    differences = [a - b for a, b in zip(logs[own], logs[other], strict=True)]
    return AnswersSummary(
        tokens=sum(tokens),
        log_probability={name: _ratio(values, tokens) for name, values in logs.items()},
        divergence=_ratio(differences, tokens),
        entropy={name: _by_quarter(readings, answers) for name, readings in read.items()},
        shared_mass={
            name: _ratio([reading.shared_mass for reading in readings], tokens)
            for name, readings in read.items()
        },
        shared_tokens=_ratio([answer.shared_tokens for answer in answers], tokens),
        length=_ratio(tokens, [1] * len(tokens)),
        ended=_share([answer.ended for answer in answers]),
        thinking=Counter(mark for answer in answers for mark in answer.thinking_marks),
        thinks=sum(bool(answer.thinking_marks) for answer in answers) / len(answers),
        template=Counter(mark for answer in answers for mark in answer.template_marks),
    )


def _by_quarter(
    readings: Sequence[Reading], answers: Sequence[SampledAnswer]
) -> tuple[Mean | None, ...]:
    means: list[Mean | None] = []
    for quarter in range(QUARTERS):
        counts = [answer.quarters[quarter] for answer in answers]
        sums = [reading.entropies[quarter] for reading in readings]
        means.append(_ratio(sums, counts) if any(counts) else None)
    return tuple(means)


def _drift(pair: ProbedPair) -> Mean | None:
    rises = []
    for prompt in pair.prompts:
        # Shorter answers leave quarters empty.
        if min(prompt.student.tokens, prompt.teacher.tokens) >= QUARTERS:
            ours, theirs = (_rise(answer) for answer in (prompt.student, prompt.teacher))
            rises.append(ours - theirs)
    return _ratio(rises, [1] * len(rises)) if len(rises) > 1 else None


def _rise(answer: SampledAnswer) -> float:
    """Return the teacher's mean entropy in the last quarter minus that in the first."""
    first, *_, last = (
        total / count
        for total, count in zip(answer.teacher.entropies, answer.quarters, strict=True)
    )
    return last - first


def _ratio(sums: Sequence[float], counts: Sequence[int]) -> Mean:
    """Return the sum over prompts divided by their sum of counts."""
    value = sum(sums) / sum(counts)
    if len(sums) < 2:
        return Mean(value=value)
    prompts = Documents.of_tasks([""] * len(sums), [1.0] * len(sums))
    numerator, denominator = (np.array([column], dtype=float) for column in (sums, counts))
    if len(set(counts)) == 1:
        found = estimate(numerator / denominator, prompts, draws=0)
        return Mean(value=value, low=found.low, high=found.high)
    interval = ratio_interval(numerator, denominator, prompts)
    low, high = interval or (None, None)
    return Mean(value=value, low=low, high=high)


def _share(holds: Sequence[bool]) -> Mean:
    found = stats.binomtest(sum(holds), len(holds)).proportion_ci(0.95, method="wilson")
    return Mean(value=sum(holds) / len(holds), low=float(found.low), high=float(found.high))


def _concerns(pair: PairSummary) -> list[Concern]:
    ours, theirs = pair.answers["student"], pair.answers["teacher"]
    lengths = (ours.length.value, theirs.length.value)
    # What is cut here would also be cut in training only if the limit is the study's own.
    cut = pair.max_new_tokens == pair.rollout_limit
    found: dict[Concern, bool] = {
        "little_shared": not pair.says_little_of_overlap
        and ours.shared_mass["student"].value < SHARED_MASS,
        "nothing_to_learn": all(
            end is not None and abs(end) < LITTLE
            for end in (ours.divergence.low, ours.divergence.high)
        ),
        "drift": pair.drift is not None and (pair.drift.low or 0.0) > 0,
        "first_token": pair.other_first_token.value > HALF,
        "truncated": cut and 1 - ours.ended.value > MANY_TRUNCATED,
        "length": max(lengths) > MUCH_LONGER * min(lengths),
        "marks": bool(ours.template or theirs.template) or abs(ours.thinks - theirs.thinks) > HALF,
    }
    return [name for name, holds in found.items() if holds]
