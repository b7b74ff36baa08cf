"""Interval of a ratio of two means, such as the share of a gap that was closed.

Fieller's method (Journal of the Royal Statistical Society B 16, 1954): a ratio is plausible if the
mean of ``numerator - ratio * denominator`` is not shown to differ from 0. Both are scores of the
same documents, so their common errors cancel. ``crossed_effects.estimate`` gives the variance.
"""

from __future__ import annotations

from collections.abc import Callable

from scipy import optimize

from sweeper.analysis.stats.crossed_effects import Documents, Matrix, estimate
from sweeper.analysis.stats.significance import ALPHA

_FURTHEST = 2.0**20
"""Farthest end of an interval from the ratio; an interval that reaches further is useless."""


def ratio_interval(
    numerator: Matrix, denominator: Matrix, documents: Documents
) -> tuple[float, float] | None:
    """Compute the 95 % interval of ``mean(numerator) / mean(denominator)``.

    Both have the shape (seeds, documents); a denominator of one row is the same for all seeds.
    Returns None if the denominator is not shown to differ from 0: then the set is no interval.
    """

    def excess(ratio: float) -> float:
        """Return a positive number where the ratio is not plausible."""
        found = estimate(numerator - ratio * denominator, documents, draws=0)
        return abs(found.mean) - found.reach(ALPHA / 2)

    below = estimate(denominator, documents, draws=0)
    if abs(below.mean) <= below.reach(ALPHA / 2):
        return None
    best = estimate(numerator, documents, draws=0).mean / below.mean
    low, high = (_crossing(excess, best, side) for side in (-1.0, 1.0))
    return None if low is None or high is None else (low, high)


def _crossing(excess: Callable[[float], float], best: float, side: float) -> float | None:
    step = 0.01
    while excess(best + side * step) <= 0:
        step *= 2
        if step > _FURTHEST:
            return None
    if excess(best) >= 0:
        return best
    return float(optimize.brentq(excess, best, best + side * step))
