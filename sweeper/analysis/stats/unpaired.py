"""Difference of two arms of different studies: the same documents, but no common seeds.

In each arm a score is ``x[s, d] = mean + seed[s] + document[d] + rest[s, d]``, as in
``crossed_effects``. The arms' seeds are independent, so each adds its own part to the variance.
Documents are compared in pairs once each arm's seeds are averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from sweeper.analysis.stats.crossed_effects import TAIL, Documents, Matrix, estimate


@dataclass(frozen=True)
class UnpairedEstimate:
    """Difference of means, with its interval."""

    mean: float
    seeds: tuple[int, int]
    """Seeds of either arm; with one the interval holds for that seed only."""
    documents: int
    stderr: float
    low: float
    high: float


def estimate_unpaired(ours: Matrix, theirs: Matrix, documents: Documents) -> UnpairedEstimate:
    """Estimate the mean of ``ours`` minus that of ``theirs``.

    The variance has three parts, each from its own mean squares with its own degrees of freedom:
    our seeds, their seeds, and the documents' differences. The rest is in all of them and must
    count once: it stays with the seeds and is subtracted from the documents, except for an arm
    with one seed. The interval reaches as far as the root of the sum of their squared reaches (the
    method of variance estimates recovery: Zou and Donner, Statistics in Medicine 27, 2008).

    Args:
        ours: Shape (our seeds, documents).
        theirs: Shape (their seeds, documents), of the same documents in the same order.
        documents: Documents of the columns.

    Raises:
        ValueError: The shapes do not fit.
    """
    columns = (ours.mean(axis=0) - theirs.mean(axis=0))[None]
    by_document = estimate(columns, documents, draws=0)
    of_documents = by_document.variance_of_documents
    variance = reach = 0.0
    for scores in (ours, theirs):
        seeds = len(scores)
        if seeds > 1:
            part = float((scores @ documents.weights).var(ddof=1)) / seeds
            variance += part
            reach += part * float(stats.t.isf(TAIL, seeds - 1)) ** 2
            of_documents -= _rest(scores, documents) / seeds
    of_documents = max(of_documents, 0.0)
    variance += of_documents
    spare = max(by_document.freedom_of_documents, 1)
    reach += of_documents * float(stats.t.isf(TAIL, spare)) ** 2
    half = math.sqrt(reach)
    return UnpairedEstimate(
        mean=by_document.mean,
        seeds=(len(ours), len(theirs)),
        documents=columns.shape[1],
        stderr=math.sqrt(variance),
        low=by_document.mean - half,
        high=by_document.mean + half,
    )


def _rest(scores: Matrix, documents: Documents) -> float:
    """Return the variance of one seed's mean without the effects of seeds and documents."""
    left = scores - scores.mean(axis=0)
    rows = (estimate(row[None], documents, draws=0).variance_of_documents for row in left)
    return sum(rows) / (len(scores) - 1)
