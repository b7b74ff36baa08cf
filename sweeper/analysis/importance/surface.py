"""The score over ``lmbda`` and ``beta`` with an arm's other settings averaged out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweeper.analysis.importance.forest import INTERVAL, ArmForests, Axis, Floats
from sweeper.config.base import Scalar
from sweeper.records import Record

FEWEST_FOR_SURFACE = 16
"""Trials, four for each quarter of the square; below this there is no surface."""
_BAND = 0.12
"""The height of the band of a single value, as a share of the range, where there is room."""
REACH = 0.25
"""How far from a trial a surface is drawn at all, as a share of a range."""


class Surface(Record):
    """A fitted surface of one arm."""

    arm: str
    trials: int
    lmbdas: tuple[tuple[float, float], ...]
    betas: tuple[tuple[float, float], ...]
    """The bands that the surface is drawn in, each from its lower to its upper edge: those of a
    range touch, those of single values are narrow, and nothing is drawn between them."""
    scores: tuple[tuple[float, ...], ...]
    """The mean of all re-fits: by ``beta``, then by ``lmbda``."""
    support: tuple[tuple[float, ...], ...]
    """From 1 where a trial is to 0 at ``REACH`` from all of them, in the same order. Trials near
    ``beta`` 0 or 1 say nothing of the ends themselves, where the loss is another one."""
    spread: float
    """Half the interval of a point's height, averaged over where there is support."""


def lmbda_beta_surface(refits: ArmForests) -> Surface | None:
    """The surface, if ``FEWEST_FOR_SURFACE`` trials of the arm searched both settings."""
    fitted = refits.shared
    if fitted is None or len(refits.rows) < FEWEST_FOR_SURFACE:
        return None
    lmbda, beta = fitted.index("lmbda"), fitted.index("beta")
    if lmbda is None or beta is None:
        return None
    across, up = fitted.axes[lmbda], fitted.axes[beta]
    if not (across.ordered and up.ordered):
        return None
    heights = fitted.marginals(beta, lmbda)
    low, high = np.quantile(heights, INTERVAL, axis=0)
    support = _support(refits, across, up)
    half = (high - low) / 2
    return Surface(
        arm=refits.arm,
        trials=fitted.trials,
        lmbdas=_bands(across),
        betas=_bands(up),
        scores=tuple(map(tuple, heights.mean(axis=0).tolist())),
        support=tuple(map(tuple, support.tolist())),
        spread=float(np.average(half, weights=support)),
    )


def _support(refits: ArmForests, across: Axis, up: Axis) -> Floats:
    apart = []
    for axis in (up, across):
        values = _numbers(axis.values)
        trials = _numbers([params[axis.name] for params, _ in refits.rows])
        distances = np.abs(values[:, None] - trials) / _width(axis)
        if axis.name == "beta":
            for end in (0, 1):
                distances[(values == end)[:, None] != (trials == end)] = np.inf
        apart.append(distances)
    nearest = np.hypot(apart[0][:, None, :], apart[1][None, :, :]).min(axis=2)
    return np.asarray(np.clip(1 - nearest / REACH, 0.0, 1.0), dtype=float)


def _width(axis: Axis) -> float:
    space = axis.space
    if space.type == "categorical":
        return float(np.ptp(_numbers(axis.values)))
    return float(space.high - space.low)


def _bands(axis: Axis) -> tuple[tuple[float, float], ...]:
    values = _numbers(axis.values)
    if axis.discrete:
        half = min(_BAND / 2 * _width(axis), float(np.diff(values).min()) / 2)
        return tuple((float(value - half), float(value + half)) for value in values)
    space = axis.space
    assert space.type != "categorical"
    edges = (np.geomspace if space.log else np.linspace)(space.low, space.high, len(values) + 1)
    return tuple(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _numbers(values: Sequence[Scalar]) -> Floats:
    return np.array([float(value) for value in values if isinstance(value, int | float)])
