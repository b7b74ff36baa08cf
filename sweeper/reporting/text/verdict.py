"""Sentences about a verdict, for terminal, report and JSON alike."""

from __future__ import annotations

import math

from sweeper.analysis.stats.significance import ALPHA
from sweeper.analysis.verdict import TEST
from sweeper.analysis.verdict_records import PairVerdict, Verdict
from sweeper.reporting.text import formatting


def sentence(pair: PairVerdict, margin: float | None) -> str:
    """Return the conclusion of one comparison with its numbers, to be quoted."""
    digits = _digits(pair.stderr)
    low, high = (formatting.signed(end, digits) for end in pair.interval)
    holm = f" after Holm's correction for {pair.comparisons} comparisons"
    after = holm if pair.comparisons > 1 else ""
    number = (
        f"{formatting.signed(pair.difference, digits)} (95 % interval {low} to {high},"
        f" {formatting.p_value(pair.p_adjusted)}{after}; {_count(pair.seeds, 'seed')},"
        f" {_count(pair.documents, 'document')})"
    )
    if pair.conclusion == "equivalent":
        small = ", a real difference that is too small to matter"
        real = small if pair.p_adjusted <= ALPHA else ""
        return f"{pair.arm} and {pair.against} are equivalent within {margin:g}: {number}{real}."
    if pair.conclusion == "inconclusive":
        return f"{pair.arm} against {pair.against} is inconclusive: {number}."
    return f"{pair.arm} is {pair.conclusion} than {pair.against}: {number}."


def notes(verdict: Verdict) -> list[str]:
    """Return what a reader needs in order to judge the verdict."""
    sentences = []
    if verdict.looks > 1:
        sentences.append(
            f"Winners were declared {verdict.looks} times, so this verdict is not the first look at"
            " the test suite."
        )
    if verdict.revised:
        sentences.append(
            "The primary comparisons were changed after winners had been declared: take this"
            " verdict as exploratory."
        )
    sentences += verdict.missing
    fewest = min((pair.seeds for pair in verdict.pairs), default=0)
    if fewest == 1:
        sentences.append(
            "With one seed, intervals hold for these students only, not for others trained the same"
            " way."
        )
    elif fewest == 2:
        sentences.append(
            "Two seeds show little of the variance between seeds; trust intervals from three seeds"
            " on."
        )
    return sentences


def explanations(verdict: Verdict) -> list[str]:
    """Return what the numbers of the verdict's tables mean."""
    margin = ""
    if verdict.margin is not None:
        margin = f" Arms are equivalent if shown to differ by less than {verdict.margin:g}."
    declared = "The study file declares the comparisons (compare): each is the first minus the"
    return [
        *([f"{declared} second."] if verdict.declared else []),
        f"Intervals (95 %) cover other seeds and other documents. p is from a {TEST}, adjusted by"
        f" Holm's procedure for the comparisons of one table.{margin}",
        "Selection bias: the search score minus the mean of the retrained runs on the same suite."
        " Gap closed: the share of the way from the starting student to the teacher.",
    ]


def _digits(stderr: float) -> int:
    """Return the decimals that show two digits of the standard error."""
    return min(max(1 - math.floor(math.log10(stderr)), 2), 5) if stderr > 0 else 3


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
