"""Whether a study will be able to claim anything, and how small a difference it can show."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.analysis import power
from sweeper.analysis.findings import Finding
from sweeper.analysis.power import Design, Variances
from sweeper.config.study import StudyConfig

FEWEST_SEEDS = 3
"""From which on intervals are narrow enough to be of use."""


def power_findings(config: StudyConfig) -> list[Finding]:
    """Whether winners are confirmed at all."""
    return [_confirmation(config)]


def design_findings(
    config: StudyConfig, documents: int | None, variances: Sequence[Variances], basis: str
) -> tuple[list[Finding], Design | None]:
    """What the study can show.

    Args:
        config: The study.
        documents: Of the test suite; None if they cannot be counted.
        variances: Of a difference; see ``power``.
        basis: What they are, in words.
    """
    pairs = power.comparisons([arm.method for arm in config.arms.values()])
    if not config.confirms() or pairs == 0 or documents is None:
        return [], None
    if documents < 2:
        detail = "one document says nothing of others: what is found is true of it alone"
        advice = "Let the test suite name more documents."
        return [Finding(state="warning", what="test suite", detail=detail, advice=advice)], None
    shown = power.design(documents, config.confirm.seeds, pairs, variances, basis)
    return [_smallest(shown), *_margin(config.margin, shown)], shown


def _confirmation(config: StudyConfig) -> Finding:
    what = "confirmation"
    if config.evaluation.test is None:
        return Finding(
            state="warning",
            what=what,
            detail="there is no test suite: the search's best scores are optimistic, and no claim",
            advice="Write evaluation: {test: SUITE} and confirm: {seeds: 5}.",
        )
    if config.confirm.seeds == 0:
        return Finding(
            state="warning",
            what=what,
            detail="confirm.seeds is 0: the test suite is not used, and no claim is made",
            advice="Write confirm: {seeds: 5}.",
        )
    if power.comparisons([arm.method for arm in config.arms.values()]) == 0:
        return Finding(
            state="warning",
            what=what,
            detail="there is one arm, and nothing to compare it with",
            advice="Add an arm, for example sft.",
        )
    if config.confirm.seeds < FEWEST_SEEDS:
        return Finding(
            state="warning",
            what=what,
            detail=f"confirm.seeds is {config.confirm.seeds}: too few to tell how seeds differ",
            advice=f"Write confirm: {{seeds: 5}}, or {FEWEST_SEEDS} at least.",
        )
    detail = f"winners are trained with {config.confirm.seeds} seeds, and scored on the test suite"
    return Finding(state="ok", what=what, detail=detail)


def _smallest(design: Design) -> Finding:
    sizes = " to ".join(f"{size:.3f}" for size in sorted(design.smallest))
    seeds = f"{design.seeds} seed{'s' * (design.seeds != 1)}"
    pairs = f"{design.comparisons} comparison{'s' * (design.comparisons != 1)}"
    return Finding(
        state="ok",
        what="smallest difference",
        detail=f"{sizes} is found with {design.power:.0%} power by {seeds} and"
        f" {design.documents:,} documents, in a claim of {pairs}",
    )


def _margin(margin: float | None, design: Design) -> list[Finding]:
    if margin is None:
        return []
    if margin >= max(design.smallest):
        detail = f"{margin:g}, and the design can show that arms are equivalent within it"
        return [Finding(state="ok", what="margin", detail=detail)]
    return [
        Finding(
            state="warning",
            what="margin",
            detail=f"{margin:g} is smaller than what the design can show"
            f" ({max(design.smallest):.3f}): arms will hardly be called equivalent",
            advice="Use more documents or seeds, or a wider margin.",
        )
    ]
