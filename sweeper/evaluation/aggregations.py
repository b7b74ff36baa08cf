"""What an aggregation of documents' values is: by lm-eval's name, or by what it makes of values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.registry import aggregation_registry

Aggregation = Callable[..., Any] | None

_SAMPLE = (-300.0, *(-((7 * i) % 11) / 4 for i in range(40)), -7.5)
"""Values that tell aggregations apart, one far out; log-likelihoods, as some take them only."""


def name_of(aggregate: Callable[..., Any]) -> str:
    """Return lm-eval's name of an aggregation; the function's own if it is none of lm-eval's."""
    return _registered(aggregate) or str(getattr(aggregate, "__name__", aggregate))


def is_mean(aggregate: Aggregation) -> bool:
    """Return whether an aggregation takes the mean."""
    if name := _registered(aggregate):
        return name in ("mean", "nanmean")
    positive = [-value for value in _SAMPLE]
    return _gives(aggregate, _SAMPLE, _mean(_SAMPLE)) and _gives(
        aggregate, positive, _mean(positive)
    )


def is_perplexity(aggregate: Aggregation) -> bool:
    """Return whether an aggregation makes a perplexity of log-likelihoods."""
    if name := _registered(aggregate):
        return name == "perplexity"
    return _gives(aggregate, _SAMPLE, math.exp(-_mean(_SAMPLE)))


def falls(aggregate: Aggregation) -> bool:
    """Return whether an aggregate is lower for higher values, or pairs with higher ones."""
    low, high = (_result(aggregate, [value, value]) for value in (-2.0, -1.0))
    if low is None or high is None:
        low, high = (_result(aggregate, [(value, 1)] * 2) for value in (-2.0, -1.0))
    return low is not None and high is not None and high < low


def _registered(aggregate: Aggregation) -> str | None:
    for name in aggregation_registry:
        if aggregation_registry.get(name) is aggregate:
            return str(name)
    return None


def _gives(aggregate: Aggregation, values: Sequence[float], expected: float) -> bool:
    result = _result(aggregate, list(values))
    return result is not None and math.isclose(result, expected, rel_tol=1e-9)


def _result(aggregate: Aggregation, values: list[Any]) -> float | None:
    if aggregate is None:
        return None
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return float(aggregate(values))
    except Exception:  # whatever a function of the task's own raises
        return None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
