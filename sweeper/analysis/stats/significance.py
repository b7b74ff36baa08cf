"""Tests of differences: significance, equivalence, Holm's correction, and power.

``conclude`` is the only place that turns numbers into a conclusion. All tests are two-sided, at
``ALPHA`` over all primary comparisons of a study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from sweeper.analysis.stats.crossed_effects import Estimate, reach

ALPHA = 0.05
"""Highest probability that a study reports a difference where there is none."""
POWER = 0.8
"""Probability that a difference of the reported size is detected."""
_DRAWS = 20_000
"""Draws of the variances in the search for the smallest difference."""

Conclusion = Literal["better", "worse", "equivalent", "inconclusive"]


def p_value(difference: Estimate) -> float:
    """Return the two-sided p of a difference, with both sources of variance.

    It is at most 0.05 exactly where a symmetric 95 % interval leaves 0 out. Where all scores differ
    by the same it is that of a sign test of the documents.
    """
    return min(2 * difference.tail(abs(difference.mean)), 1.0)


def equivalence_p(difference: Estimate, margin: float) -> float:
    """Return the p of two one-sided tests (Schuirmann 1987) for a difference within ``margin``."""
    return difference.tail(margin - abs(difference.mean))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm 1979), in the given order."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, alpha=ALPHA, method="holm")[1]]


def conclude(difference: Estimate, p_adjusted: float, margin: float | None) -> Conclusion:
    """Conclude on a difference, where higher is better.

    A difference that is shown to lie within the margin is "equivalent", even if it is also shown
    not to be 0: the study's author declared that so little does not matter.
    """
    if margin is not None and equivalence_p(difference, margin) <= ALPHA:
        return "equivalent"
    if p_adjusted <= ALPHA:
        return "better" if difference.mean > 0 else "worse"
    return "inconclusive"


def smallest_difference(
    of_seeds: float,
    of_documents: float,
    of_rest: float,
    *,
    seeds: int,
    documents: int,
    comparisons: int = 1,
) -> float:
    """Find the smallest difference that a design detects with probability ``POWER``.

    Both parts of the variance are drawn as scores would give them. The result is the difference
    that exceeds its ``Estimate.reach`` with that probability.

    Args:
        of_seeds: Variance of the difference's seed effects.
        of_documents: Variance of its document effects.
        of_rest: Variance of the rest, in one document with one seed.
        seeds: Number of seeds of each arm.
        documents: Number of documents of the test suite; at least 2.
        comparisons: Primary comparisons; the first step of Holm's procedure divides ``ALPHA``.
    """
    rng = np.random.default_rng(0)
    rest = of_rest / (seeds * documents)
    variance = of_seeds / seeds + of_documents / documents + rest
    if variance == 0:
        return 0.0

    def drawn(mean: float, freedom: int) -> NDArray[np.float64]:
        return mean * rng.chisquare(freedom, _DRAWS) / freedom

    by_seed = np.zeros(_DRAWS)
    by_document = drawn(of_documents / documents + rest, documents - 1)
    if seeds > 1:
        by_seed = drawn(of_seeds / seeds + rest, seeds - 1)
        by_document -= drawn(rest, (seeds - 1) * (documents - 1))
    reached = reach(
        by_seed,
        np.maximum(by_document, 0),
        ALPHA / comparisons / 2,
        seeds=seeds,
        freedom_of_documents=documents - 1,
    )
    deviation = math.sqrt(variance)

    def lacking(difference: float) -> float:
        return float(stats.norm.sf((reached - difference) / deviation).mean()) - POWER

    return float(optimize.brentq(lacking, 0.0, 3 * float(reached.max()) + 10 * deviation))
