"""What lm-eval computes of a document, found before a model is scored.

Its own metrics are tried with a right and a wrong answer. A user's functions may call a judge or
run code, so they are read and never called.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import ConfigurableTask

from sweeper.evaluation.values import finite, short
from sweeper.foundation.errors import BadInputError

_TRIED = 3
"""Documents that are tried until right and wrong answers differ."""
_WRONG = "qq none of these"
_COLUMNS = frozenset(
    ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics")
) | {"doc_hash", "prompt_hash", "target_hash"}
"""lm-eval's own names in a document's row, which a metric of that name would overwrite."""


def answered(name: str, task: Any, metric: str) -> tuple[Any, Any] | None:
    """Return lm-eval's values of a metric for a right and for a wrong answer.

    They are alike if no document tells right from wrong. None: a function of the user's computes
    the metric, or lm-eval has no value for made-up answers.

    Raises:
        BadInputError: lm-eval's metric fails on an answer.
    """
    if not _lm_evals_own(task, metric):
        return None
    alone, values, failed = only(task, metric), None, None
    # lm-eval would process all documents again for each that is asked of eval_docs.
    documents = task.task_docs
    for index in range(min(_TRIED, len(documents))):
        document = documents[index]
        try:
            answers = list(_answers(alone, document))
        except Exception:  # whatever a user's functions raise on a document
            continue
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                right, wrong = (alone.process_results(document, one)[metric] for one in answers)
        except Exception as error:  # whatever lm-eval raises on an answer
            failed = error
            continue
        values = (right, wrong)
        if repr(right) != repr(wrong):
            return values
    if values is None and failed is not None and task.OUTPUT_TYPE == "generate_until":
        raise BadInputError(
            f"Task {name}: lm-eval's {metric!r} is not made for answers of this task"
            f" ({type(failed).__name__}: {failed}); name another metric."
        )
    return values


def only(task: Any, metric: str) -> Any:
    """Return the task, computing one metric of documents only.

    Functions and aggregations of its other metrics may fail on values that nobody asked for.
    """
    alone = copy.copy(task)
    alone.aggregation = lambda: defaultdict(lambda: _unused)
    if _by_lm_eval(task):
        alone._metric_fn_list = {metric: task._metric_fn_list.get(metric)}
    return alone


def telling(name: str, task: Any, metric: str) -> Any:
    """Return ``only`` of a task; where a user's function fails on an answer, it says so."""
    alone = only(task, metric)
    compute = alone.process_results

    def process_results(document: Any, answers: Any) -> Any:
        told = f"Task {name}: its {'metrics' if _by_lm_eval(task) else 'process_results'}"
        try:
            values = compute(document, answers)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a function of the user's raises
            if not finite(answers):
                raise
            raise BadInputError(
                f"{told} failed on the answer {short(answers)}: {type(error).__name__}: {error};"
                " let every answer have a value."
            ) from error
        if not isinstance(values, dict):
            raise BadInputError(f"{told}: expected {{NAME: number}}, found {short(values)}.")
        return values

    alone.process_results = process_results
    return alone


def _unused(values: object) -> None:
    """Stand in for an aggregation."""


def check_computed(name: str, task: Any, metric: str) -> None:
    """Check that documents will have a value of a metric, as far as that is certain.

    Raises:
        BadInputError: They will not.
    """
    if metric in _COLUMNS:
        raise BadInputError(
            f"Task {name}: lm-eval keeps something else under the name {metric!r}; give the metric"
            " another name."
        )
    if not isinstance(task, ConfigurableTask):
        return
    compute = task.get_config("process_results")
    if compute is not None:
        if not callable(compute):
            raise BadInputError(
                f"Task {name}: expected a function as process_results, found {compute!r}; write"
                " !function FILE.NAME."
            )
        _check_returned(name, metric, compute, "process_results")
    elif _by_lm_eval(task):
        _check_listed(name, task, metric)


def _check_listed(name: str, task: Any, metric: str) -> None:
    """Check a metric of a task without ``process_results``."""
    kind = task.OUTPUT_TYPE
    function = task._metric_fn_list.get(metric)
    if kind == "generate_until":
        if function is None:
            raise BadInputError(
                f"Task {name}: {metric!r} is not one of lm-eval's metrics, nor of the library"
                " evaluate, and the task has no process_results that computes it; name another"
                " metric, or add one (process_results: !function FILE.NAME, which returns"
                " {NAME: number})."
            )
        if task.multiple_target and metric != "exact_match":
            raise BadInputError(
                f"Task {name}: documents have several targets, for which lm-eval makes 0 or 1 of"
                f" {metric!r}; use exact_match, or compute the metric in process_results."
            )
        for item in task.get_config("metric_list") or ():
            if callable(item["metric"]) and item["metric"].__name__ == metric:
                _check_returned(name, metric, item["metric"], "its function")
        return
    alone, document = only(task, metric), task.task_docs[0]
    try:
        found = alone.process_results(document, next(_answers(alone, document)))
    except Exception:  # whatever lm-eval raises on an answer that it does not expect
        return
    if metric not in found:
        raise BadInputError(
            f"Task {name}: lm-eval computes no {metric!r} for documents of output_type {kind};"
            " name another metric, or compute it in process_results."
        )


def _gold(task: Any, document: Any) -> Any:
    """Return which choice is right: its place or its text, or several."""
    return (task.doc_to_text if task.multiple_input else task.doc_to_target)(document)


def _check_returned(name: str, metric: str, function: Callable[..., Any], role: str) -> None:
    keys = returned_keys(function)
    if keys is not None and metric not in keys:
        listed = ", ".join(map(str, keys))
        raise BadInputError(
            f"Task {name}: {role} ({function.__name__}) returns no {metric!r}, only {listed};"
            f" let it return {{{metric!r}: number}}."
        )


def returned_keys(function: Callable[..., Any]) -> list[Any] | None:
    """Return the keys of the dictionaries that a function returns; None if its text hides some."""
    try:
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    # Behind a decorator, the text is that of another function.
    if not isinstance(tree, ast.FunctionDef) or tree.decorator_list:
        return None
    if hasattr(function, "__wrapped__"):
        return None
    keys: dict[Any, None] = {}
    for node in _own_nodes(tree):
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return None
        if not isinstance(node, ast.Return):
            continue
        if not isinstance(node.value, ast.Dict):
            return None
        for key in node.value.keys:
            if not isinstance(key, ast.Constant):
                return None
            keys[key.value] = None
    return list(keys) or None


def _own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what is inside a function, without the functions inside it."""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
        ):
            yield child
            yield from _own_nodes(child)


def _by_lm_eval(task: Any) -> bool:
    """Return whether lm-eval's own code makes documents' values of answers."""
    return (
        isinstance(task, ConfigurableTask)
        and type(task).process_results is ConfigurableTask.process_results
        and task.get_config("process_results") is None
    )


def _lm_evals_own(task: Any, metric: str) -> bool:
    if not _by_lm_eval(task) or metric not in task._metric_fn_list:
        return False
    # Functions are called for generated answers only.
    function = task._metric_fn_list[metric]
    registered = metric_registry.get(metric, None)
    return task.OUTPUT_TYPE != "generate_until" or (function is not None and function is registered)


def _answers(task: Any, document: Any) -> Iterator[list[Any]]:
    """Yield a right and a wrong answer to a document, as filters hand them to a task."""
    kind = task.OUTPUT_TYPE
    if kind == "loglikelihood":
        yield from ([(-0.5, True)], [(-9.0, False)])
    elif kind == "loglikelihood_rolling":
        yield from ([-0.5], [-9.0])
    elif kind == "multiple_choice":
        choices = task.doc_to_choice(document)
        gold = _gold(task, document)
        gold = gold[0] if isinstance(gold, list) else gold
        index = choices.index(gold) if isinstance(gold, str) else gold
        unconditional = [(0.0, False)] * len(choices)
        extra = unconditional if "acc_mutual_info" in task._metric_fn_list else []
        for right in (True, False):
            likely = [(place == index) == right for place in range(len(choices))]
            yield [(0.0 if high else -1000.0, high) for high in likely] + extra
    else:
        gold = task.doc_to_target(document)
        if task.config.doc_to_choice is not None:
            gold = task.doc_to_choice(document)[gold]
        yield [str(gold[0] if isinstance(gold, list) else gold)]
        yield [_WRONG]
