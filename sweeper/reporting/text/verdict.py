"""The sentences that say what a verdict means, the same in terminal, report and JSON."""

from __future__ import annotations

import math

from sweeper.analysis.stats.significance import ALPHA, Conclusion
from sweeper.analysis.verdict import TEST, PairVerdict, Verdict
from sweeper.reporting.text import formatting

_ORDER: dict[Conclusion, str] = {
    "better": "{ours} is better than {theirs}",
    "equivalent": "{ours} is equivalent to {theirs}",
    "worse": "{ours} is worse than {theirs}",
    "inconclusive": "whether {ours} or {theirs} is better cannot be told",
}
"""What is said of all arms that the GKD arm compares alike with, in this order."""


def headline(verdict: Verdict) -> str:
    """The claim at equal steps, in a sentence or two."""
    pairs = [pair for pair in verdict.pairs if pair.at == "steps"]
    if not pairs:
        return "There is nothing to compare on the test suite."
    if len({pair.arm for pair in pairs}) > 1:
        return " ".join(sentence(pair, verdict.margin) for pair in pairs)
    if len(pairs) == 1:
        told = sentence(pairs[0], verdict.margin)
        if pairs[0].conclusion == "inconclusive":
            told = told[0].lower() + told[1:]
        return f"On the test suite {told}"
    parts = []
    for conclusion, text in _ORDER.items():
        against = [pair.against for pair in pairs if pair.conclusion == conclusion]
        if against:
            word = "or" if conclusion == "inconclusive" else "and"
            parts.append(text.format(ours=pairs[0].arm, theirs=formatting.listed(against, word)))
    # The pair that decides is the one that is least clear.
    closest = max(pairs, key=lambda pair: pair.p_adjusted)
    told = sentence(closest, verdict.margin)
    return f"On the test suite, {'; '.join(parts)}. The closest: {told}"


def sentence(pair: PairVerdict, margin: float | None) -> str:
    """What may be said of one arm against another, to be quoted."""
    digits = _digits(pair.stderr)
    low, high = (formatting.signed(end, digits) for end in pair.interval)
    after = f" after Holm's correction for {pair.comparisons}" if pair.comparisons > 1 else ""
    number = (
        f"{formatting.signed(pair.difference, digits)} (95 % interval {low} to {high},"
        f" {formatting.p_value(pair.p_adjusted)}{after}; {_count(pair.seeds, 'seed')},"
        f" {_count(pair.documents, 'document')})"
    )
    if pair.conclusion == "equivalent":
        real = ""
        if pair.p_adjusted <= ALPHA:
            real = ", a difference that is real and too small to matter"
        return f"{pair.arm} and {pair.against} are equivalent within {margin:g}: {number}{real}."
    if pair.conclusion == "inconclusive":
        return f"Whether {pair.arm} or {pair.against} is better cannot be told: {number}."
    return f"{pair.arm} is {pair.conclusion} than {pair.against}: {number}."


def notes(verdict: Verdict) -> list[str]:
    """What a reader must know to read the verdict rightly."""
    found = []
    if verdict.looks > 1:
        found.append(
            f"Winners were declared {verdict.looks} times: the test suite had been scored before"
            " this verdict, which is therefore not the first look at it."
        )
    found += verdict.missing
    fewest = min((pair.seeds for pair in verdict.pairs), default=0)
    if fewest == 1:
        found.append(
            "With one seed the intervals hold for these students only: nothing is known of others"
            " that were trained the same way."
        )
    elif fewest == 2:
        found.append(
            "Two seeds tell little of how seeds differ: intervals can be trusted from three on."
        )
    return found


def explanations(verdict: Verdict) -> list[str]:
    """How the numbers of the verdict's tables are meant."""
    margin = ""
    if verdict.margin is not None:
        margin = (
            f" Arms are equivalent if they are shown to differ by less than {verdict.margin:g}."
        )
    return [
        "Intervals are of 95 %, for other seeds and other documents; p is that of a"
        f" {TEST}, adjusted by Holm's procedure for the comparisons of one table.{margin}",
        "The search's luck is by how much its score of a winner exceeds that of new seeds on the"
        " same selection suite. The gap closed is the share of the way from the starting student"
        " to the teacher.",
    ]


def _digits(stderr: float) -> int:
    """After the point: two digits of the standard error."""
    return min(max(1 - math.floor(math.log10(stderr)), 2), 5) if stderr > 0 else 3


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
