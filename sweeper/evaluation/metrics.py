"""What a metric's value for one document means: its direction, and how values become a score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.registry import aggregation_registry, higher_is_better_registry

from sweeper.config.suite import PERPLEXITIES, SuiteTask
from sweeper.foundation.errors import BadInputError

_SAMPLE = (0.0, -1.0, -0.25, -3.5)
"""Values that tell aggregations apart; log-likelihoods, as some take them only."""


@dataclass(frozen=True)
class Metric:
    """A task's metric, as documents are scored by it."""

    name: str
    """lm-eval's name."""
    shown: str
    """Name of the score: another one where documents are scored by another value."""
    higher_is_better: bool
    """Direction of a document's value."""
    aggregation: str
    """How documents' values become the score."""
    sign: float = 1.0
    """Factor of lm-eval's value for a document."""


def read_metric(name: str, task: Any, entry: SuiteTask, wanted: str | None) -> Metric:
    """Return what a metric of a loaded task means.

    Args:
        name: The task's name.
        task: lm-eval's task.
        entry: The suite's entry.
        wanted: The metric's name; None: the task's first.

    Raises:
        BadInputError: The task has no such metric, its direction is not known for certain, or its
            score is no mean over documents.
    """
    aggregations: dict[str, Any] = task.aggregation() or {}
    metric = wanted or next(iter(aggregations), None)
    if metric is None or metric not in aggregations:
        listed = ", ".join(map(str, aggregations)) or "none"
        raise BadInputError(f"Task {name}: no metric {metric!r}; the task has {listed}.")
    if metric in PERPLEXITIES:
        _check_direction(name, metric, entry, known=False)
        return Metric(metric, "nats_per_byte", False, "nats over bytes")
    aggregate = aggregations[metric]
    aggregation = _name_of(aggregate)
    if _is_mean(aggregate):
        return Metric(metric, metric, _direction(name, metric, task, entry), aggregation)
    if _is_perplexity(aggregate):
        # Documents have log-likelihoods, of which the perplexity is the inverse exponential.
        _check_direction(name, metric, entry, known=False)
        declared = _declared(metric, task)
        if declared:
            raise _uncertain(name, metric, "a perplexity is better if it is lower", declared)
        return Metric(metric, "nats", False, "mean of nats, the logarithm of perplexity", -1.0)
    raise BadInputError(
        f"Task {name}: the metric {metric!r} is aggregated by {aggregation}, which is not the mean"
        " over documents, so trials cannot be compared document by document; name another metric"
        " of the task in the suite, or a task file with aggregation: mean."
    )


def check_value(task: str, document: int, metric: str, value: Any) -> float:
    """Return a document's value as a number.

    Raises:
        BadInputError: It is none, or not a number that a mean can be taken of.
    """
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, bool | int | float):
        return float(value)
    raise BadInputError(
        f"Task {task}: the metric {metric!r} of document {document} is not a number but"
        f" {_short(value)}, so trials cannot be compared document by document; choose another"
        " metric."
    )


def _direction(name: str, metric: str, task: Any, entry: SuiteTask) -> bool:
    known = _registered(metric, task)
    _check_direction(name, metric, entry, known=known)
    declared = _declared(metric, task)
    if known is not None and declared is not None and declared != known:
        better = "higher" if known else "lower"
        raise _uncertain(name, metric, f"lm-eval's own is better if it is {better}", declared)
    for value in (entry.higher_is_better, declared, known):
        if value is not None:
            return value
    raise BadInputError(
        f"Task {name}: nothing says whether a higher {metric!r} is better; write"
        " higher_is_better: true (or false) at the task in the suite, or in its metric_list."
    )


def _check_direction(name: str, metric: str, entry: SuiteTask, *, known: bool | None) -> None:
    if known is not None and entry.higher_is_better not in (None, known):
        raise _uncertain(
            name, metric, f"it is better if it is {'higher' if known else 'lower'}", not known
        )


def _uncertain(name: str, metric: str, why: str, said: bool) -> BadInputError:
    return BadInputError(
        f"Task {name}: higher_is_better is {str(said).lower()} for {metric!r}, but {why}; leave"
        " higher_is_better out, or give a metric of your own another name."
    )


def _declared(metric: str, task: Any) -> bool | None:
    """Return the direction that a task states; None if lm-eval guessed it."""
    listed = task.get_config("metric_list") if hasattr(task, "get_config") else None
    if not listed:
        value = (task.higher_is_better() or {}).get(metric)
        return None if value is None else bool(value)
    for item in listed:
        named = item.get("metric")
        if metric == named or metric == getattr(named, "__name__", None):
            value = item.get("higher_is_better")
            return None if value is None else bool(value)
    return None


def _registered(metric: str, task: Any) -> bool | None:
    """Return the direction of lm-eval's own metric of this name, unless the task computes it."""
    try:
        value = higher_is_better_registry.get(metric)
    except KeyError:
        return None
    computed = hasattr(task, "get_config") and task.get_config("process_results") is not None
    declared = _declared(metric, task)
    return declared if computed and declared is not None else bool(value)


def _name_of(aggregate: Callable[..., Any]) -> str:
    for name in aggregation_registry:
        if aggregation_registry.get(name) is aggregate:
            return str(name)
    return getattr(aggregate, "__name__", repr(aggregate))


def _is_mean(aggregate: Callable[..., Any]) -> bool:
    positive = [-value for value in _SAMPLE]
    return _gives(aggregate, _SAMPLE, _mean(_SAMPLE)) and _gives(
        aggregate, positive, _mean(positive)
    )


def _is_perplexity(aggregate: Callable[..., Any]) -> bool:
    return _gives(aggregate, _SAMPLE, math.exp(-_mean(_SAMPLE)))


def _gives(aggregate: Callable[..., Any], values: Sequence[float], expected: float) -> bool:
    try:
        return math.isclose(float(aggregate(list(values))), expected, rel_tol=1e-9)
    except Exception:  # whatever a function of the task's own raises
        return False


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
