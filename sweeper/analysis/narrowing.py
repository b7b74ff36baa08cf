"""Settings in few digits, and a search space narrowed to where the best trials were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.analysis.comparison import Score
from sweeper.config.base import Scalar
from sweeper.config.space import AnySpace, CategoricalSpace, FloatSpace, IntSpace, read_space
from sweeper.records.study_record import TrialRecord, finite_number

FEWEST_TRIALS = 8
"""Fewest scored trials of an arm for its space to be narrowed."""
BEST_SHARE = 0.25
"""Share of the trials whose settings a narrowed space holds."""
MARGIN = 0.1
"""Share of a range's width that is added on either side of the best trials."""
WORTH = 0.8
"""Share of its width above which a narrowed range would not be worth it."""
FEWEST_TRIED = 2
"""Fewest trials of a choice for it to be left out."""


def rounded(value: Scalar, raw_space: object) -> Scalar:
    """Round a sampled value to as few significant digits, two or more, as its space allows.

    A value inside a range is not rounded to 0, to 1 or to the range's end, where settings such as
    ``lmbda`` and ``beta`` have another meaning.
    """
    space = read_space(raw_space)
    if not isinstance(value, float) or not isinstance(space, FloatSpace) or space.step is not None:
        return value
    special = {0.0, 1.0, space.low, space.high}
    if not math.isfinite(value) or value in special:
        return value
    for digits in range(2, 17):
        shorter = float(f"{value:.{digits}g}")
        if space.low <= shorter <= space.high and shorter not in special:
            return shorter
    return value


def narrowed(
    search: Mapping[str, Any], ranked: Sequence[tuple[TrialRecord, Score]]
) -> dict[str, Any] | None:
    """Narrow an arm's search to its best trials; ``ranked`` has the best first.

    Returns None with too few trials, or if nothing would be narrower.
    """
    if len(ranked) < FEWEST_TRIALS:
        return None
    best = ranked[: max(math.ceil(BEST_SHARE * len(ranked)), 3)]
    found = {}
    for name, raw in search.items():
        space = read_space(raw)
        if space is None:
            return None
        smaller = _smaller(space, name, [t for t, _ in best], [t for t, _ in ranked])
        found[name] = smaller.model_dump(mode="json", exclude_defaults=True)
        found[name] = {"type": smaller.type, **found[name]}
    same = all(read_space(found[name]) == read_space(raw) for name, raw in search.items())
    return None if same else found


def _smaller(
    space: AnySpace, name: str, best: Sequence[TrialRecord], trials: Sequence[TrialRecord]
) -> AnySpace:
    chosen = [trial.params[name] for trial in best if name in trial.params]
    if not chosen:
        return space
    if isinstance(space, CategoricalSpace):
        tried = [trial.params.get(name) for trial in trials]
        kept = tuple(c for c in space.choices if c in chosen or tried.count(c) < FEWEST_TRIED)
        return CategoricalSpace(type="categorical", choices=kept or space.choices)
    numbers = [number for value in chosen if (number := finite_number(value)) is not None]
    if not numbers or not space.low < space.high:
        return space
    forth, back = (math.log, math.exp) if space.log else (float, float)
    bottom, top = forth(space.low), forth(space.high)
    extra = MARGIN * (top - bottom)
    low = max(forth(max(min(numbers), space.low)) - extra, bottom)
    high = min(forth(min(max(numbers), space.high)) + extra, top)
    if high - low > WORTH * (top - bottom):
        return space
    return _within(space, back(low), back(high))


def _within(space: FloatSpace | IntSpace, low: float, high: float) -> FloatSpace | IntSpace:
    """Return the part of ``space`` with both ends, made whole steps or short numbers."""
    if isinstance(space, IntSpace) or space.step is not None:
        step = space.step or 1
        first = math.floor((low - space.low) / step + 1e-9)
        last = math.ceil((high - space.low) / step - 1e-9)
        ends = [float(f"{space.low + index * step:.12g}") for index in (first, last)]
        ends = [max(ends[0], space.low), min(ends[1], space.high)]
        if isinstance(space, IntSpace):
            return space.model_copy(update={"low": int(ends[0]), "high": int(ends[1])})
    else:
        ends = [max(_short(low, down=True), space.low), min(_short(high, down=False), space.high)]
    return space.model_copy(update={"low": ends[0], "high": ends[1]})


def _short(value: float, *, down: bool) -> float:
    """Round to two significant digits, away from the range's middle."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    whole = math.floor(value / unit + 1e-9) if down else math.ceil(value / unit - 1e-9)
    return float(f"{whole * unit:.2g}")
