"""A document's value by a metric, read from lm-eval's row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

from sweeper.foundation.errors import BadInputError

NATS_PER_BYTE = "nats_per_byte"
NATS = "nats"
_ROUNDING = 1e-3
"""Nats by which a log-likelihood may exceed 0."""


@dataclass(frozen=True)
class Metric:
    """A task's metric, as documents are scored by it."""

    name: str
    """lm-eval's name of the value that is read."""
    shown: str
    """Name of the score: another one where documents are scored by another value."""
    higher_is_better: bool
    """Direction of a document's value."""
    aggregation: str
    """How documents' values become the score."""


def read_value(name: str, metric: Metric, task: Any, row: Mapping[str, Any]) -> tuple[float, float]:
    """Return a document's value from lm-eval's row, and its weight in the task's mean.

    A value that is not finite is the model's, not the metric's: it stays.

    Raises:
        BadInputError: There is none, or none that a mean can be taken of.
    """
    document, weight = int(row["doc_id"]), 1.0
    if metric.name not in row["metrics"]:
        listed = ", ".join(map(str, row["metrics"])) or "nothing"
        raise BadInputError(
            f"Task {name}: document {document} has no {metric.name!r}, only {listed}."
        )
    value = row[metric.name]
    if metric.shown == NATS_PER_BYTE:
        value, weight = _pair(name, document, metric.name, value)
        if metric.name == "word_perplexity":
            weight = float(task.count_bytes(row["target"]))
        if weight <= 0:
            raise BadInputError(
                f"Task {name}: document {document} has no text, so no nats per byte; leave it out."
            )
    value = check_value(name, document, metric.name, value)
    if not math.isfinite(value) and finite(row["resps"]):
        raise BadInputError(
            f"Task {name}: the metric {metric.name!r} of document {document} is {value}, of which"
            " no mean can be taken; let process_results return a number for every answer, or leave"
            " the document out."
        )
    if metric.shown not in (NATS, NATS_PER_BYTE):
        return value, weight
    if value > _ROUNDING:
        raise BadInputError(
            f"Task {name}: the metric {metric.name!r} of document {document} is {value:.4g}, but a"
            " log-likelihood is at most 0; let process_results return log-likelihoods, or give the"
            " metric another name, with aggregation: mean and higher_is_better."
        )
    return -value / weight, weight


def check_value(task: str, document: int, metric: str, value: Any) -> float:
    """Return a document's value as a number.

    Raises:
        BadInputError: It is none, or not a number that a mean can be taken of.
    """
    found = number(value)
    if found is None:
        raise BadInputError(
            f"Task {task}: the metric {metric!r} of document {document} is not a number but"
            f" {short(value)}, so trials cannot be compared document by document; choose another"
            " metric."
        )
    return found


def _pair(task: str, document: int, metric: str, value: Any) -> tuple[float, float]:
    """Return a log-likelihood and its number of units."""
    numbers = [number(part) for part in value] if isinstance(value, list | tuple) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        raise BadInputError(
            f"Task {task}: expected a pair (log-likelihood, bytes) as {metric!r} of document"
            f" {document}, found {short(value)}."
        )
    return numbers[0], numbers[1]


def number(value: Any) -> float | None:
    """Return a value as a number; None if it is none."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if not isinstance(value, Real | Decimal):
        return None
    try:
        return float(value)
    except (OverflowError, ValueError):
        return None


def finite(responses: Any) -> bool:
    """Return whether all numbers of a model's responses are finite."""
    if isinstance(responses, list | tuple):
        return all(map(finite, responses))
    found = number(responses)
    return found is None or math.isfinite(found)


def short(value: object) -> str:
    """Return a value as text for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
