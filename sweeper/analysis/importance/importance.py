"""Importance of an arm's settings: fANOVA on the completed trials.

The importance of a setting is the share of the score's variance, over the search space as it is
sampled, that the setting explains on its own (Hutter, Hoos and Leyton-Brown, ICML 2014), scaled so
that the settings of one estimate sum to 1. Its interval comes from re-fits.
"""

from __future__ import annotations

import numpy as np

from sweeper.analysis.importance.forest import INTERVAL, ArmForests, Forests
from sweeper.records import Record


class ImportanceShare(Record):
    """Importance of one setting."""

    share: float
    """Mean over all re-fits."""
    low: float
    high: float
    """Quantiles across re-fits (``forest.INTERVAL``), or ``share`` where that lies outside."""


class Importance(Record):
    """Importances of one arm's settings."""

    arm: str
    values: dict[str, ImportanceShare]
    """Shares of the settings that all trials sampled, largest first; they sum to 1."""
    trials: int
    """Number of trials that ``values`` was estimated from."""
    conditional: dict[str, ImportanceShare]
    """Shares of the settings that only some trials sampled (``temperature`` has no effect at
    ``lmbda`` 0), within the trials that sampled every setting; not on the scale of ``values``."""
    conditional_trials: int
    """Number of trials that ``conditional`` was estimated from."""


def parameter_importance(refits: ArmForests) -> Importance | None:
    """Estimate the importances of an arm's settings; return None without re-fits.

    None too where fewer than two settings vary: the share of one is 1 whatever it does.
    """
    values = _shares(refits.shared)
    within = _shares(refits.everywhere)
    conditional = {name: share for name, share in within.items() if name not in values}
    if not values and not conditional:
        return None
    return Importance(
        arm=refits.arm,
        values=values,
        trials=len(refits.rows) if refits.shared is None else refits.shared.trials,
        conditional=conditional,
        conditional_trials=refits.everywhere.trials if conditional and refits.everywhere else 0,
    )


def _shares(refits: Forests | None) -> dict[str, ImportanceShare]:
    if refits is None or len(refits.axes) < 2:
        return {}
    found = refits.shares()
    # A half whose scores are all equal has no importances.
    found = found[found.sum(axis=1) > 0]
    if not len(found):
        return {}
    means = found.mean(axis=0)
    low, high = np.quantile(found, INTERVAL, axis=0)
    shares = {
        axis.name: ImportanceShare(
            share=float(mean), low=float(min(mean, bottom)), high=float(max(mean, top))
        )
        for axis, mean, bottom, top in zip(refits.axes, means, low, high, strict=True)
    }
    return dict(sorted(shares.items(), key=lambda item: (-item[1].share, item[0])))
