"""Tests that look only at which of two numbers is larger, for few trials of unknown distribution.

Up to ``MOST_PERMUTED`` trials p is that of a permutation test, which is exact where all
permutations can be listed; of more, that of the usual approximation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from sweeper.analysis.stats.significance import ALPHA
from sweeper.records import Record

FEWEST_PAIRS = 5
"""Of a correlation: with four, no order is so rare that p could be 0.05."""
FEWEST_A_SIDE = 4
"""Of a comparison of two groups: with three on each side, p is at least 0.1."""
MOST_PERMUTED = 60
_PERMUTATIONS = 9_999


class Correlation(Record):
    """Spearman's rank correlation."""

    pairs: int
    value: float
    """Between -1 and 1."""
    low: float
    high: float
    """The 95 % interval (Bonett and Wright, Psychometrika 65, 2000)."""
    p: float
    """Two-sided, that it is not 0."""


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """How far ``y`` rises with ``x``; None with too few pairs, or if either does not vary."""
    pairs = len(x)
    if pairs < FEWEST_PAIRS or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    ranks = stats.rankdata(x), stats.rankdata(y)
    method = _permutations() if pairs <= MOST_PERMUTED else None
    found = stats.pearsonr(*ranks, method=method)
    value = min(max(float(found.statistic), -1.0), 1.0)
    reach = float(stats.norm.isf(ALPHA / 2)) * math.sqrt((1 + value**2 / 2) / (pairs - 3))
    centre = math.atanh(min(max(value, -1 + 1e-12), 1 - 1e-12))
    return Correlation(
        pairs=pairs,
        value=value,
        low=math.tanh(centre - reach),
        high=math.tanh(centre + reach),
        p=min(float(found.pvalue), 1.0),
    )


def rank_sum_p(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The p of the Mann–Whitney test, two-sided, that neither group tends to the larger numbers.

    None with fewer than ``FEWEST_A_SIDE`` numbers in a group.
    """
    if min(len(ours), len(theirs)) < FEWEST_A_SIDE:
        return None
    distinct, pooled = len({*ours, *theirs}), len(ours) + len(theirs)
    if distinct < 2:
        return 1.0
    if pooled > MOST_PERMUTED:
        method = "asymptotic"
    else:
        # Without ties all permutations need not be gone through to be counted.
        method = "exact" if distinct == pooled else _permutations()
    return min(float(stats.mannwhitneyu(ours, theirs, method=method).pvalue), 1.0)


def _permutations() -> stats.PermutationMethod:
    # Seeded: the same records give the same report.
    return stats.PermutationMethod(n_resamples=_PERMUTATIONS, rng=np.random.default_rng(0))
