"""The diagnosis of a pair in words: each number, what it means, and when to worry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sweeper.analysis.pair import LITTLE, SHARED_MASS, AnswersSummary, Mean, Model, PairSummary
from sweeper.analysis.rollout_stats import MANY_TRUNCATED, MUCH_LONGER
from sweeper.reporting.text import formatting
from sweeper.reporting.text.terminal_escape import visible

TITLE = "The pair before training"


class PairRow(NamedTuple):
    """One measure of a pair."""

    name: str
    value: str
    meaning: str
    """What the number means, a clause."""
    worry: str
    """When to worry, a clause that follows "worry if"."""
    advice: str
    """What to do, where there is reason to worry; else empty."""


def basis(pair: PairSummary) -> str:
    """Return what the numbers of a pair were measured on."""
    tokens = " and ".join(
        f"{pair.answers[model].tokens:,} tokens of the {model}" for model in pair.answers
    )
    return (
        f"Teacher {visible(pair.teacher)}, starting student: one answer of each to"
        f" {pair.prompts} training prompts in the student's rendering, {tokens}, sampled at"
        f" temperature 1 and cut at {pair.max_new_tokens} tokens. In brackets: 95 % intervals for"
        " other prompts."
    )


def pair_rows(pair: PairSummary) -> Iterator[PairRow]:
    """Yield the measures of a pair."""
    ours, theirs = pair.answers["student"], pair.answers["teacher"]
    advice = {concern: _ADVICE[concern] for concern in pair.concerns}
    yield PairRow(
        "student's answers",
        _log_probabilities(ours, "teacher", "student"),
        "log-probability by the teacher, and by the student itself; the difference estimates"
        " KL(student‖teacher), which on-policy training with beta 1 lowers",
        f"the whole interval of the difference is within {LITTLE:g} of 0: the models agree already",
        advice.get("nothing_to_learn", ""),
    )
    yield PairRow(
        "teacher's answers",
        _log_probabilities(theirs, "student", "teacher"),
        "log-probability by the student, and by the teacher itself; the difference estimates"
        " KL(teacher‖student)",
        "it is many times the difference on the student's answers: then the student hardly samples"
        " what the teacher would write, and only data or teacher outputs show it",
        "",
    )
    count = ours.shared_tokens.value * pair.top
    yield PairRow(
        f"shared top {pair.top}",
        f"{_percent(ours.shared_mass['student'])} of the student's probability and"
        f" {_percent(ours.shared_mass['teacher'])} of the teacher's on the student's answers, by"
        f" {count:.1f} of {pair.top} tokens ({_percent(theirs.shared_mass['student'])} and"
        f" {_percent(theirs.shared_mass['teacher'])} on the teacher's answers)",
        "probability of the tokens that both models rank on top: where the teacher's signal"
        " reaches what the student samples. Li et al. (arXiv 2604.13016) report 97 to 99 % where"
        " on-policy distillation succeeds",
        f"the student's share is below {formatting.percent(SHARED_MASS)}"
        + (
            f"; it tells little here, as there are only {pair.vocabulary} tokens"
            if pair.says_little_of_overlap
            else ""
        ),
        advice.get("little_shared", ""),
    )
    yield PairRow(
        "entropy",
        f"{_entropies(ours)} nats along the student's answers, {_entropies(theirs)} along the"
        f" teacher's, by quarter{_drift(pair.drift)}",
        "how unsure each model is of the next token. A student near 0 samples the same answer again"
        " and again",
        "the teacher's rises along the student's answers, and not along its own: it loses the"
        " thread of them",
        advice.get("drift", ""),
    )
    yield PairRow(
        "first token",
        f"the most likely one differs after {_percent(pair.other_first_token)} of the prompts",
        "how the answer begins",
        "it differs after more than half of them: the models expect other templates, or one thinks",
        advice.get("first_token", ""),
    )
    limit = f"cut at {pair.max_new_tokens} tokens"
    if pair.rollout_limit not in (None, pair.max_new_tokens):
        limit += f", in training at {pair.rollout_limit}"
    yield PairRow(
        "length and end",
        f"student {_length(ours)}, teacher {_length(theirs)}; {limit}",
        "tokens of an answer, and the share that an end token ended",
        f"more than {formatting.percent(MANY_TRUNCATED)} of the student's are cut at the limit of"
        f" training, or one model's are more than {MUCH_LONGER:g} times as long",
        " ".join(advice[name] for name in ("truncated", "length") if name in advice),
    )
    yield PairRow(
        "marks",
        "; ".join(filter(None, (_marks(pair, model) for model in pair.answers)))
        or "none in either model's answers",
        "marks of thinking and of chat templates in the answers",
        "there are marks of templates, or only one model thinks",
        advice.get("marks", ""),
    )


_ADVICE = {
    "nothing_to_learn": "There is nothing to distil: take another teacher, or a weaker student.",
    "little_shared": "Bring the student closer first: warm_start on teacher outputs (seqkd), or"
    " arms with a smaller lmbda; or take a teacher of the student's family.",
    "drift": "Shorten rollouts (max_new_tokens), or bring the student closer first (warm_start).",
    "first_token": "Compare the chat templates, and read some of the answers.",
    "truncated": "Raise max_new_tokens, or warm the student up: answers that are cut do not teach"
    " it to stop.",
    "length": "Read some of the answers: one model may not end its turns, or thinks.",
    "marks": "Read some of the answers: a model that writes marks of templates does not end its"
    " turns, or was made for another template; of a pair in which one thinks, take the variants"
    " that agree.",
}
"""What to do, by concern."""


def pair_warnings(pair: PairSummary) -> list[str]:
    """Return a sentence for each measure that is worrying."""
    return [f"{row.name}: {row.value}. {row.advice}" for row in pair_rows(pair) if row.advice]


def mean(value: Mean, digits: int = 2) -> str:
    """Format a mean with its interval: ``0.59 [0.41, 0.77]``."""
    # Without a minus before what rounds to zero.
    ends = [
        f"{round(end, digits) + 0.0:.{digits}f}"
        for end in (value.value, value.low, value.high)
        if end is not None
    ]
    return ends[0] if len(ends) == 1 else f"{ends[0]} [{ends[1]}, {ends[2]}]"


def _log_probabilities(answers: AnswersSummary, reader: Model, own: Model) -> str:
    return (
        f"{mean(answers.log_probability[reader])} nats a token by the {reader},"
        f" {mean(answers.log_probability[own])} by the {own}, difference"
        f" {mean(answers.divergence, 3)}"
    )


def _percent(share: Mean) -> str:
    ends = [f"{end * 100:.0f}" for end in (share.low, share.high) if end is not None]
    return formatting.percent(share.value) + (f" [{', '.join(ends)}]" if ends else "")


def _entropies(answers: AnswersSummary) -> str:
    return " and ".join(
        f"{model} "
        + ", ".join(formatting.NOTHING if m is None else f"{m.value:.2f}" for m in quarters)
        for model, quarters in answers.entropy.items()
    )


def _drift(drift: Mean | None) -> str:
    return f"; the teacher's rise differs by {mean(drift)}" if drift else ""


def _length(answers: AnswersSummary) -> str:
    return f"{mean(answers.length, 0)} tokens, {_percent(answers.ended)} ended"


def _marks(pair: PairSummary, model: Model) -> str:
    found = {**pair.answers[model].thinking, **pair.answers[model].template}
    listed = (f"{visible(mark)} in {count}" for mark, count in found.items())
    return f"the {model}'s: {', '.join(listed)} of {pair.prompts} answers" if found else ""
