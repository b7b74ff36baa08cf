"""What a metric's value for one document means: its direction, and how values become a score.

The direction is that of a document's value. What lm-eval, a task or a suite says of a metric is
about its aggregate: a perplexity is better if it is lower, and the log-likelihoods of documents,
of which it is made, are better if they are higher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from lm_eval.api.registry import higher_is_better_registry, metric_agg_registry

from sweeper.config.suite import PERPLEXITIES, SuiteTask
from sweeper.evaluation.aggregations import falls, is_mean, is_perplexity, name_of
from sweeper.evaluation.computed import answered, check_computed
from sweeper.evaluation.values import NATS, NATS_PER_BYTE, number, short
from sweeper.evaluation.values import Metric as Metric
from sweeper.foundation.errors import BadInputError


def read_metric(name: str, task: Any, entry: SuiteTask, wanted: str | None) -> Metric:
    """Return what a metric of a loaded task means.

    Args:
        name: The task's name.
        task: lm-eval's task.
        entry: The suite's entry.
        wanted: The metric's name; None: the task's first.

    Raises:
        BadInputError: The task has no such metric or does not compute it, its direction is not
            known for certain, or its score is no mean over documents.
    """
    aggregations: dict[str, Any] = task.aggregation() or {}
    metric = wanted or next(iter(aggregations), None)
    if metric is None or metric not in aggregations:
        listed = ", ".join(map(str, aggregations)) or "none"
        raise BadInputError(f"Task {name}: no metric {metric!r}; the task has {listed}.")
    aggregate = aggregations[metric]
    if not callable(aggregate):
        raise BadInputError(
            f"Task {name}: the aggregation of {metric!r} is none of lm-eval's; write"
            " aggregation: mean in its metric_list."
        )
    check_computed(name, task, metric)
    if metric in PERPLEXITIES:
        return _read_pairs(name, metric, task, entry)
    values = answered(name, task, metric)
    if is_mean(aggregate):
        higher = _direction(name, metric, task, entry, values)
        shown = "log_likelihood" if metric == "perplexity" else metric
        return Metric(metric, shown, higher, name_of(aggregate))
    if is_perplexity(aggregate):
        return _read_perplexity(name, metric, task, entry, values)
    raise BadInputError(
        f"Task {name}: the metric {metric!r} is aggregated by {name_of(aggregate)}, which is not"
        " the mean over documents, so trials cannot be compared document by document; name another"
        " metric of the task in the suite, or a task file with aggregation: mean."
    )


def _read_pairs(name: str, metric: str, task: Any, entry: SuiteTask) -> Metric:
    """Return the meaning of a metric whose values are log-likelihoods and numbers of units."""
    aggregations = task.aggregation()
    paired = [
        other
        for other in ("byte_perplexity", "bits_per_byte", "word_perplexity")
        if aggregations.get(other) in (weighted_perplexity, bits_per_byte)
    ]
    if metric not in paired:
        raise BadInputError(
            f"Task {name}: lm-eval's {metric} is made of pairs (log-likelihood, bytes or words),"
            f" which {name_of(aggregations[metric])} does not take; leave its aggregation out, or"
            " give a metric of your own another name."
        )
    _check_stated(name, metric, task, entry, False)
    # Nats over bytes add up, whichever of the three the suite names.
    source = paired[0]
    values = answered(name, task, source)
    if values is not None and not isinstance(values[0], tuple):
        raise _without_number(name, metric, values[0])
    if values is None and source == "word_perplexity":
        raise BadInputError(
            f"Task {name}: {metric} is scored by nats per byte; let process_results return"
            " byte_perplexity, too, and name it in metric_list."
        )
    return Metric(source, NATS_PER_BYTE, False, "nats over bytes")


def _read_perplexity(
    name: str, metric: str, task: Any, entry: SuiteTask, values: tuple[Any, Any] | None
) -> Metric:
    """Return the meaning of log-likelihoods that become a perplexity."""
    _check_stated(name, metric, task, entry, False, "a perplexity is better if it is lower")
    stated = entry.higher_is_better is False or _declared(name, metric, task) is False
    if not stated and not is_perplexity(metric_agg_registry.get(metric, None)):
        raise _undirected(name, metric)
    if values is not None and any(value is None or value > 0 for value in map(number, values)):
        raise BadInputError(
            f"Task {name}: the metric {metric!r} is no log-likelihood, which"
            " aggregation: perplexity takes; write aggregation: mean."
        )
    return Metric(metric, NATS, False, "mean of nats, the logarithm of perplexity")


def _direction(
    name: str, metric: str, task: Any, entry: SuiteTask, values: tuple[Any, Any] | None
) -> bool:
    """Return the direction of values of which the mean is taken."""
    computed = _compare(name, metric, values)
    registered, usual = _registered(metric), metric_agg_registry.get(metric, None)
    if computed is None and registered is False and falls(usual):
        raise BadInputError(
            f"Task {name}: {metric!r} is lm-eval's name of log-likelihoods that become a"
            " perplexity, and with aggregation: mean it is not certain which of the two a"
            " document's value is; give the metric another name, with higher_is_better next to it."
        )
    known = registered if computed is None else computed
    # A perplexity is better if it is lower, its documents' values if they are higher.
    why = "lm-eval's value of a document is a log-likelihood" if known != registered else ""
    _check_stated(name, metric, task, entry, known, why)
    certain = known if computed is not None or is_mean(usual) else None
    for value in (entry.higher_is_better, _declared(name, metric, task), certain):
        if value is not None:
            return value
    raise _undirected(name, metric)


def _compare(name: str, metric: str, values: tuple[Any, Any] | None) -> bool | None:
    """Return whether lm-eval itself gives a right answer a higher value than a wrong one."""
    if values is None:
        return None
    right, wrong = map(number, values)
    if right is None or wrong is None:
        raise _without_number(name, metric, values[0])
    return None if right == wrong else right > wrong


def _check_stated(
    name: str, metric: str, task: Any, entry: SuiteTask, known: bool | None, why: str = ""
) -> None:
    """Check what suite and task state against the direction that is known."""
    better = f"better if it is {'higher' if known else 'lower'}"
    stated = {
        f"it is {better}": entry.higher_is_better,
        f"lm-eval's own is {better}": _declared(name, metric, task),
    }
    for reason, said in stated.items():
        if known is not None and said not in (None, known):
            raise BadInputError(
                f"Task {name}: higher_is_better is {str(said).lower()} for {metric!r}, but"
                f" {why or reason}; leave higher_is_better out, or give a metric of your own"
                " another name."
            )


def _without_number(name: str, metric: str, value: Any) -> BadInputError:
    return BadInputError(
        f"Task {name}: lm-eval has no number for a document by {metric!r}, but {short(value)}, so"
        " trials cannot be compared document by document; name another metric, or compute one in"
        " process_results."
    )


def _undirected(name: str, metric: str) -> BadInputError:
    return BadInputError(
        f"Task {name}: nothing says whether a higher {metric!r} is better; write"
        " higher_is_better: true (or false) at the task in the suite, or in its metric_list."
    )


def _declared(name: str, metric: str, task: Any) -> bool | None:
    """Return the direction that a task states; None if lm-eval guessed it."""
    listed = task.get_config("metric_list") if hasattr(task, "get_config") else None
    if listed:
        # The last one is lm-eval's, where a metric is listed twice.
        stated = {_listed_as(item): item.get("higher_is_better") for item in listed}
    else:
        stated = task.higher_is_better() or {}
    value = stated.get(metric)
    if value is not None and not isinstance(value, bool):
        raise BadInputError(
            f"Task {name}: expected true or false as higher_is_better of {metric!r}, found"
            f" {value!r}."
        )
    return value


def _listed_as(item: Mapping[str, Any]) -> Any:
    named = item.get("metric")
    return getattr(named, "__name__", None) if callable(named) else named


def _registered(metric: str) -> bool | None:
    value = higher_is_better_registry.get(metric, None)
    return None if value is None else bool(value)
