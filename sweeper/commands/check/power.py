"""Findings on statistical power: the confirmation, and the smallest difference it can show."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.analysis import power
from sweeper.analysis.findings import Finding
from sweeper.analysis.power import Design, Variances

FEWEST_SEEDS = 3
"""Seeds from which on intervals are narrow enough to be of use."""


def design_findings(
    documents: int | None,
    seeds: int,
    comparisons: int,
    margin: float | None,
    variances: Sequence[Variances],
    basis: str,
) -> tuple[list[Finding], Design | None]:
    """Report which differences the study's design can show.

    Args:
        documents: Documents of the test suite; None without one, or if they cannot be counted.
        seeds: Seeds of each winner.
        comparisons: Number of primary comparisons.
        margin: Difference that is too small to matter.
        variances: Variances of a difference.
        basis: Source of the variances, in words.
    """
    if documents is None or seeds == 0 or comparisons == 0:
        return [], None
    if documents < 2:
        detail = "it has one document, and results on one document hold for no other"
        advice = "Let the test suite name more documents."
        return [Finding(state="warning", what="test suite", detail=detail, advice=advice)], None
    shown = power.design(documents, seeds, comparisons, variances, basis)
    return [_smallest(shown), *_margin(margin, shown)], shown


def confirmation_finding(seeds: int | None, comparisons: int) -> Finding:
    """Report whether winners are confirmed; ``seeds`` is None without a test suite."""
    if seeds is None:
        detail = "there is no test suite: the search's best scores are optimistic, and no verdict"
        advice = "Write evaluation: {test: SUITE} and confirm: {seeds: 5}."
    elif seeds == 0:
        detail = "confirm.seeds is 0: the test suite is not used, and there is no verdict"
        advice = "Write confirm: {seeds: 5}."
    elif comparisons == 0:
        detail = "there is one arm, and nothing to compare it with"
        advice = "Add an arm, for example sft."
    elif seeds < FEWEST_SEEDS:
        detail = f"confirm.seeds is {seeds}: too few to measure how seeds differ"
        advice = f"Write confirm: {{seeds: 5}}, or {FEWEST_SEEDS} at least."
    else:
        detail = f"winners are trained with {seeds} seeds, and scored on the test suite"
        return Finding(state="ok", what="confirmation", detail=detail)
    return Finding(state="warning", what="confirmation", detail=detail, advice=advice)


def declared_comparisons(pairs: Sequence[tuple[str, str]] | None) -> list[Finding]:
    """Report the primary comparisons that the study file declares."""
    if not pairs:
        return []
    listed = ", ".join(f"{ours} − {theirs}" for ours, theirs in pairs)
    detail = f"{listed}, as compare declares them"
    return [Finding(state="ok", what="primary comparisons", detail=detail)]


def _smallest(design: Design) -> Finding:
    sizes = " to ".join(f"{size:.3f}" for size in sorted(design.smallest))
    seeds = f"{design.seeds} seed{'s' * (design.seeds != 1)}"
    pairs = f"{design.comparisons} primary comparison{'s' * (design.comparisons != 1)}"
    detail = f"{sizes} is detected with {design.power:.0%} power by {seeds} and"
    detail += f" {design.documents:,} documents, in {pairs}"
    return Finding(state="ok", what="smallest difference", detail=detail)


def _margin(margin: float | None, design: Design) -> list[Finding]:
    if margin is None:
        return []
    if margin >= max(design.smallest):
        detail = f"{margin:g}, and the design can show that arms are equivalent within it"
        return [Finding(state="ok", what="margin", detail=detail)]
    shown = f"smaller than what the design can show ({max(design.smallest):.3f})"
    detail = f"{margin:g} is {shown}: arms will hardly be called equivalent"
    advice = "Use more documents or seeds, or a wider margin."
    return [Finding(state="warning", what="margin", detail=detail, advice=advice)]
