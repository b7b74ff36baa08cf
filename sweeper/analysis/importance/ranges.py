"""Exhausted ranges: the best trials lie at an end, so better ones may lie beyond it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from sweeper.analysis.importance.effects import Effect
from sweeper.analysis.importance.forest import INTERVAL, ArmForests, Axis, Floats
from sweeper.config.base import Scalar
from sweeper.config.settings import is_setting, value_problem
from sweeper.config.space import AnySpace, CategoricalSpace, IntSpace
from sweeper.records import Record

FEWEST_BEST = 3
"""Fewest best trials considered; a tenth of all if that is more."""
NEAR = 0.15
"""Share of a range, on its scale, that counts as its end."""


class ExhaustedRange(Record):
    """Setting whose best trials lie at an end of its range."""

    arm: str
    name: str
    end: Literal["low", "high"]
    limit: float | int
    """End of the range, or last value of a list of numbers."""
    best: float | int
    """Value of the best trial there."""
    wider: dict[str, Any] | None
    """Search space with that end moved outwards; None where the setting allows no more."""


def exhausted_ranges(
    refits: ArmForests, effects: Sequence[Effect], *, higher_is_better: bool
) -> list[ExhaustedRange]:
    """Find the ranges of an arm that should be wider.

    A range is exhausted if the setting has a clear effect, if its score still rises to the end in
    90 % of the re-fits, and if the best trial, or half of the best few, is there.
    """
    found = []
    sign = 1.0 if higher_is_better else -1.0
    for effect in effects:
        axis = refits.axes[effect.name]
        if not (effect.clear and axis.ordered and is_setting(axis.name)):
            continue
        rows = [(params[axis.name], score) for params, score in refits.rows if axis.name in params]
        rows.sort(key=lambda row: row[1], reverse=higher_is_better)
        few = [value for value, _ in rows[: max(FEWEST_BEST, round(len(rows) / 10))]]
        for end, place in _ENDS:
            near = [value for value in few if _at_end(axis, value, place)]
            there = few[0] in near or 2 * len(near) >= len(few)
            if not (there and _rises(axis, sign * refits.curves(axis.name), end)):
                continue
            limit = axis.values[round(place) * (len(axis.values) - 1)]
            if not isinstance(axis.space, CategoricalSpace):
                limit = getattr(axis.space, end)
            best = near[0]
            assert isinstance(limit, int | float) and isinstance(best, int | float)
            found.append(
                ExhaustedRange(
                    arm=refits.arm,
                    name=axis.name,
                    end=end,
                    limit=limit,
                    best=best,
                    wider=_wider(axis, end),
                )
            )
    return found


_ENDS: tuple[tuple[Literal["low", "high"], float], ...] = (("low", 0.0), ("high", 1.0))


def _at_end(axis: Axis, value: Scalar, place: float) -> bool:
    """Return True if the value is an end of a list or of steps, or near that of a range."""
    if axis.discrete:
        return value == axis.values[round(place) * (len(axis.values) - 1)]
    return abs(axis.place(value) - place) <= NEAR


def _rises(axis: Axis, curves: Floats, end: Literal["low", "high"]) -> bool:
    """Return True if the end is better than a quarter of the range, or one value, further in.

    Both places are fixed beforehand, so all re-fits can be used.
    """
    inwards = 1 if axis.discrete else max(1, len(axis.values) // 4)
    last, inner = (0, inwards) if end == "low" else (-1, -1 - inwards)
    rise = curves[:, last] - curves[:, inner]
    return bool(np.quantile(rise, INTERVAL[0]) > 0)


def _wider(axis: Axis, end: Literal["low", "high"]) -> dict[str, Any] | None:
    """Move an end of the space outwards as far as the setting allows; None if it cannot."""
    space = axis.space
    plain = {"type": space.type, **space.model_dump(exclude_defaults=True)}
    for value in _further(space, end):
        if value_problem(axis.name, value) is not None:
            continue
        if isinstance(space, CategoricalSpace):
            choices = list(space.choices)
            return {**plain, "choices": [value, *choices] if end == "low" else [*choices, value]}
        return {**plain, end: value}
    return None


def _further(space: AnySpace, end: Literal["low", "high"]) -> Iterator[float | int]:
    """Yield values beyond the ``end``, the preferred ones first."""
    outwards = 1 if end == "high" else -1
    if isinstance(space, CategoricalSpace):
        numbers = sorted(float(v) for v in space.choices if isinstance(v, int | float))
        edge, neighbour = (numbers[0], numbers[1]) if end == "low" else (numbers[-1], numbers[-2])
        whole = all(isinstance(choice, int) for choice in space.choices)
        wanted, positive = _next(edge, neighbour), False
    else:
        edge, whole, positive = getattr(space, end), isinstance(space, IntSpace), space.log
        width = space.high - space.low
        if space.step is not None and not (whole and space.step == 1):
            step = Decimal(str(space.step))
            for steps in range(max(1, round(width / 2 / float(step))), 0, -1):
                moved = Decimal(str(edge)) + outwards * steps * step
                yield int(moved) if whole else float(moved)
            return
        # Half of the range further, on the scale that it is sampled on.
        by = math.sqrt(space.high / space.low) if space.log else width / 2
        wanted = edge * by**outwards if space.log else edge + outwards * by
    # If the setting does not take that: the end of a share, or half of the way there.
    bound = 1.0 if outwards > 0 else 0.0
    for value in (wanted, bound, (edge + bound) / 2):
        rounded = round(value) if whole else float(f"{value:.2g}")
        if outwards * (rounded - edge) > 0 and (rounded > 0 or not positive):
            yield rounded


def _next(edge: float, neighbour: float) -> float:
    """Continue a list by its last factor where that is 2 or more, else by its last step."""
    if edge * neighbour > 0 and not 0.5 < edge / neighbour < 2:
        return edge * edge / neighbour
    return edge + (edge - neighbour)
