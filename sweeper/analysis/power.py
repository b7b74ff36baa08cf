"""Power of a study's design: the smallest difference that it detects, before it is run."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sweeper.analysis.stats.crossed_effects import Matrix
from sweeper.analysis.stats.significance import POWER, smallest_difference
from sweeper.config.settings import OFFLINE_METHODS, Method
from sweeper.records import Record

SEEDS = (3, 5, 10)
"""Numbers of seeds that are shown next to the study's own."""
SEED_DEVIATION = 0.02
"""Assumed standard deviation of an arm's score between seeds."""
ACCURACIES = (0.5, 0.8)
"""Assumed shares of right answers."""
_COMMON = 0.5
"""Share of the documents' variance that both arms have in common."""
_OF_DOCUMENTS = 0.5
"""Share of the rest that all seeds of an arm have in common."""


class Variances(Record):
    """Variances of the difference of two arms, in one document with one seed."""

    name: str
    """Source of the variances, in a word or two."""
    of_seeds: float
    of_documents: float
    of_rest: float


class Row(Record):
    """Smallest differences for a number of seeds."""

    seeds: int
    differences: tuple[float, ...]
    """Smallest differences, by the design's ``variances``."""


class Design(Record):
    """Power of a number of documents and seeds."""

    documents: int
    seeds: int
    """Seeds of the study."""
    comparisons: int
    """Number of primary comparisons; Holm's procedure corrects for them."""
    power: float = POWER
    basis: str
    """Origin of the variances, in words."""
    variances: tuple[Variances, ...]
    rows: tuple[Row, ...]

    @property
    def smallest(self) -> tuple[float, ...]:
        """Smallest differences with the study's own seeds."""
        return next(row.differences for row in self.rows if row.seeds == self.seeds)


def comparisons(
    methods: Collection[Method], declared: Collection[tuple[str, str]] | None = None
) -> int:
    """Return the number of primary comparisons: those declared, or among arms of these methods."""
    if declared is not None:
        return len(declared)
    offline = sum(method in OFFLINE_METHODS for method in methods)
    if 0 < offline < len(methods):
        return offline
    return len(methods) * (len(methods) - 1) // 2


def design(
    documents: int, seeds: int, pairs: int, variances: Sequence[Variances], basis: str
) -> Design:
    """Compute the smallest differences by number of seeds, for at least 2 documents."""

    def row(count: int) -> Row:
        numbers = {"seeds": count, "documents": documents, "comparisons": pairs}
        differences = [
            smallest_difference(known.of_seeds, known.of_documents, known.of_rest, **numbers)
            for known in variances
        ]
        return Row(seeds=count, differences=tuple(differences))

    return Design(
        documents=documents,
        seeds=seeds,
        comparisons=pairs,
        basis=basis,
        variances=tuple(variances),
        rows=tuple(map(row, sorted({*SEEDS, seeds}))),
    )


def assumed() -> tuple[tuple[Variances, ...], str]:
    """Return the variances assumed before any measurement, and their origin in words."""
    found = tuple(
        _split(f"accuracy {accuracy:g}", 2 * (1 - _COMMON) * accuracy * (1 - accuracy))
        for accuracy in ACCURACIES
    )
    shares = " and ".join(f"{accuracy:g}" for accuracy in ACCURACIES)
    return found, (
        f"assumed, as nothing has been measured: answers that are right or wrong, {shares} of them"
        f" right; half of the documents' variance common to both arms, and half of what is left"
        f" common to an arm's seeds; a standard deviation of {SEED_DEVIATION:g} between seeds"
    )


def from_trials(
    arms: Sequence[Mapping[str, float]],
) -> tuple[tuple[Variances, ...], str] | None:
    """Estimate variances from each document's score in the arms' best trials, trained once."""
    found = []
    for ours, theirs in itertools.combinations(arms, 2):
        common = [key for key in ours if key in theirs]
        if len(common) > 1:
            found.append(float(np.var([ours[k] - theirs[k] for k in common], ddof=1)))
    if not found:
        return None
    return (_split("measured", float(np.mean(found))),), (
        "documents' variance measured in the arms' best trials, half of it taken as common to an"
        f" arm's seeds; a standard deviation of {SEED_DEVIATION:g} between seeds assumed"
    )


def from_finals(differences: Sequence[Matrix]) -> tuple[tuple[Variances, ...], str] | None:
    """Estimate variances from differences of pairs of arms, each (seeds, documents)."""
    parts = []
    for scores in differences:
        seeds, documents = scores.shape
        if seeds < 2 or documents < 2:
            continue
        rows, columns = scores.mean(axis=1), scores.mean(axis=0)
        left = scores - rows[:, None] - columns + scores.mean()
        rest = float((left**2).sum()) / (seeds - 1) / (documents - 1)
        of_seeds = float(rows.var(ddof=1)) - rest / documents
        parts.append((of_seeds, float(columns.var(ddof=1)) - rest / seeds, rest))
    if not parts:
        return None
    of_seeds, of_documents, rest = (
        max(float(np.mean(part)), 0.0) for part in zip(*parts, strict=True)
    )
    return (
        Variances(name="measured", of_seeds=of_seeds, of_documents=of_documents, of_rest=rest),
    ), "measured on the test suite, in the winners that were trained with several seeds"


def _split(name: str, variance: float) -> Variances:
    return Variances(
        name=name,
        of_seeds=2 * SEED_DEVIATION**2,
        of_documents=_OF_DOCUMENTS * variance,
        of_rest=(1 - _OF_DOCUMENTS) * variance,
    )
