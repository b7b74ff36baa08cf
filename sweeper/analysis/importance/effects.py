"""Effect of each setting on the score, the other settings averaged out."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sweeper.analysis.importance.forest import INTERVAL, ArmForests, Axis, Floats, Forests
from sweeper.config.base import Scalar
from sweeper.records import Record


class Effect(Record):
    """Score over one setting of an arm, the other settings averaged out."""

    arm: str
    name: str
    values: tuple[Scalar, ...]
    """Values of the setting: all of them, or points of its range."""
    scale: Literal["linear", "log", "values", "names"]
    """Scale to draw them on: a range, single numbers, or names."""
    scores: tuple[float, ...]
    """Mean over all re-fits, by value."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """Quantiles across re-fits (``forest.INTERVAL``) of the score's difference from its mean over
    the setting, around that mean."""
    best: Scalar
    worst: Scalar
    difference: float
    """Difference between the best value and the worst, positive."""
    checked_low: float
    checked_high: float
    """Quantiles across re-fits of that difference, where one half of the trials chooses both values
    and the other half gives the scores."""
    trials: int
    conditional: bool
    """True if only some trials sampled the setting; the effect is the one within the trials that
    sampled every setting."""

    @property
    def clear(self) -> bool:
        """True if the effect is larger than its uncertainty: it also holds in the other half."""
        return self.checked_low > 0


def effects(refits: ArmForests, *, higher_is_better: bool) -> list[Effect]:
    """Compute the effect of each setting of an arm: clear ones first, then by size."""
    found = []
    seen: set[str] = set()
    for conditional, fitted in ((False, refits.shared), (True, refits.everywhere)):
        if fitted is None:
            continue
        for index, axis in enumerate(fitted.axes):
            if axis.name not in seen:
                found.append(_effect(refits.arm, fitted, index, conditional, higher_is_better))
        seen |= {axis.name for axis in fitted.axes}
    return sorted(found, key=lambda effect: (not effect.clear, -effect.difference))


def _effect(
    arm: str, refits: Forests, index: int, conditional: bool, higher_is_better: bool
) -> Effect:
    axis = refits.axes[index]
    sign = 1.0 if higher_is_better else -1.0
    curves = refits.marginals(index)
    mean = curves.mean(axis=0)
    shapes = curves - curves.mean(axis=1, keepdims=True) + mean.mean()
    low, high = np.quantile(shapes, INTERVAL, axis=0)
    best, worst = int((sign * mean).argmax()), int((sign * mean).argmin())
    checked_low, checked_high = np.quantile(_checked(sign * curves), INTERVAL)
    return Effect(
        arm=arm,
        name=axis.name,
        values=axis.values,
        scale=_scale(axis),
        scores=tuple(mean.tolist()),
        low=tuple(np.minimum(low, mean).tolist()),
        high=tuple(np.maximum(high, mean).tolist()),
        best=axis.values[best],
        worst=axis.values[worst],
        difference=float(abs(mean[best] - mean[worst])),
        checked_low=float(checked_low),
        checked_high=float(checked_high),
        trials=refits.trials,
        conditional=conditional,
    )


def _scale(axis: Axis) -> Literal["linear", "log", "values", "names"]:
    if not axis.ordered:
        return "names"
    if axis.discrete or axis.space.type == "categorical":
        return "values"
    return "log" if axis.space.log else "linear"


def _checked(curves: Floats) -> Floats:
    """Take each curve's best and worst value; return their difference in the other half."""
    others = curves.reshape(-1, 2, curves.shape[1])[:, ::-1].reshape(curves.shape)
    rows = np.arange(len(curves))
    found: Floats = others[rows, curves.argmax(axis=1)] - others[rows, curves.argmin(axis=1)]
    return found
