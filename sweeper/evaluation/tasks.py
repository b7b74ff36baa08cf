"""lm-eval's tasks of a suite, loaded and cut to the documents that it names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lm_eval.api.task import ConfigurableTask

from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.evaluation.document_checks import (
    check_documents,
    check_fields,
    check_metrics,
    try_filters,
)
from sweeper.evaluation.metrics import Metric, read_metric
from sweeper.evaluation.task_files import TaskFolders, check_source
from sweeper.evaluation.task_yaml import told
from sweeper.foundation.errors import BadInputError
from sweeper.records import SuiteSpec

FEWSHOT_SEED = 1234
"""Seed of the solved examples in a prompt, equal in every trial."""


@dataclass(frozen=True)
class LeafTask:
    """An lm-eval task and the documents of it that a suite scores."""

    entry: SuiteTask
    """Entry of the suite."""
    name: str
    """Name in lm-eval, which differs from the entry's if that is a group."""
    task: Any
    documents: tuple[int, ...]
    """Indices of the task's evaluation documents."""
    metric: Metric
    """What documents are scored by."""
    filter: str
    """The filter of answers that the metric is read from."""

    def document(self, index: int) -> Any:
        """Return a document of the task by its index."""
        return self._documents[index]

    @cached_property
    def _documents(self) -> Any:
        # lm-eval would process all documents again for each.
        return self.task.eval_docs


def load_tasks(
    suite: SuiteSpec, *, allow_code: bool = False, checked: bool = False
) -> list[LeafTask]:
    """Load the suite's tasks, groups flattened.

    Args:
        suite: The suite.
        allow_code: True to accept tasks that run code that the model wrote.
        checked: True if its documents were checked before, as a study does before its first trial.

    Raises:
        BadInputError: A task is unknown or broken, has fewer documents than the suite names, no
            such filter, metric or column, a metric whose meaning is not certain, or runs code
            without permission.
    """
    # lm-eval announces every task; our own messages cover what matters.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folders = TaskFolders([Path(directory) for directory in suite.task_directories])
    leaves: list[LeafTask] = []
    for entry in suite.config.tasks:
        for name, task in _load(folders, entry, suite).items():
            if getattr(task, "UNSAFE_CODE", False) and not allow_code:
                raise BadInputError(
                    f"Suite {suite.config.suite}: the task {name!r} runs code that the model wrote"
                    " (unsafe_code), which needs evaluation.allow_code_execution: true; best in a"
                    " container without network and secrets",
                    ("evaluation", "allow_code_execution"),
                )
            documents = _documents(entry, name, task)
            _check_cluster(entry, name, task)
            metric = read_metric(name, task, entry, entry.metric)
            leaf = LeafTask(entry, name, task, documents, metric, _filter(entry, name, task))
            if not checked:
                _check_documents(leaf)
            leaves.append(leaf)
    _check_once(leaves)
    _check_groups(leaves)
    return leaves


def scored_by(leaves: Sequence[LeafTask]) -> tuple[str, ...]:
    """Return how each entry that counts is scored, in words; tasks of a group are alike."""
    told: dict[str, str] = {}
    for leaf in leaves:
        metric = leaf.metric
        better = "higher" if metric.higher_is_better else "lower"
        kept = "" if leaf.filter == "none" else f", filter {leaf.filter}"
        words = (
            f"{leaf.entry.task} by {metric.shown} ({better} is better; {metric.aggregation}{kept})"
        )
        if leaf.entry.weight:
            told.setdefault(leaf.entry.task, words)
    return tuple(told.values())


def in_chat(
    config: SuiteConfig, *, chat: bool, system_prompt: str | None
) -> tuple[bool, str | None]:
    """Return whether prompts go through the chat template, and the system prompt before them.

    The suite's ``auto`` follows ``chat``, True if training uses the template. The study's
    ``system_prompt`` is for suites in chat form without their own.
    """
    templated = chat if config.apply_chat_template == "auto" else config.apply_chat_template
    return templated, config.system_instruction or (system_prompt if templated else None)


def prompts(leaf: LeafTask) -> Iterator[tuple[str, set[str]]]:
    """Yield each document's prompt, and all texts that a leak check compares with training prompts.

    A document asks its question inside a template, so its plain fields count too.
    """
    for index in leaf.documents:
        document = leaf.document(index)
        # A task that scores the likelihood of a text has no question: the text is its prompt.
        asked = str(leaf.task.doc_to_text(document)) or str(leaf.task.doc_to_target(document))
        fields = {value for value in document.values() if isinstance(value, str)}
        yield asked, {asked, *fields}


def _load(folders: TaskFolders, entry: SuiteTask, suite: SuiteSpec) -> dict[str, Any]:
    """Load a suite's entry: lm-eval's tasks by name."""
    place = f"Suite {suite.config.suite}"
    try:
        tasks = folders.load(entry.task)
    except Exception as error:  # lm-eval and datasets raise whatever a task file provokes
        file = folders.file_of(entry.task)
        reason = str(error) if isinstance(error, BadInputError) else told(error)
        where = f" ({file})" if file and str(file) not in reason else ""
        what = f"cannot load the task {entry.task!r}{where}: "
        unknown = reason.startswith(f"no task {entry.task!r} in ")
        raise BadInputError(f"{place}: {'' if unknown else what}{reason}") from error
    if not tasks:
        raise BadInputError(f"{place}: there is no task in {entry.task!r}")
    for name, task in tasks.items():
        check_source(name, task)
        if entry.num_fewshot is not None or task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=entry.num_fewshot or 0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return tasks


def _check_documents(leaf: LeafTask) -> None:
    """Check what a run would refuse of a task of the user's own, document by document."""
    task = leaf.task
    own = getattr(task.config.doc_to_text, "own", isinstance(task.config.doc_to_text, int))
    if not own or not isinstance(task, ConfigurableTask):
        return
    try:
        check_fields(task)
        check_metrics(task)
        try_filters(task, leaf.document(0))
        check_documents(task, leaf.documents, leaf.document, leaf.entry.cluster_by)
    except BadInputError as error:
        source = (task.config.metadata or {}).get("config_source")
        place = f" ({source})" if source else ""
        raise BadInputError(f"Task {leaf.name}{place}: {error}") from error
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _check_once(leaves: Sequence[LeafTask]) -> None:
    """Check that no task is scored twice, by itself and in a group."""
    entries: dict[str, str] = {}
    for leaf in leaves:
        first = entries.setdefault(leaf.name, leaf.entry.task)
        if first != leaf.entry.task:
            raise BadInputError(
                f"Task {leaf.name}: it is in {first!r} and in {leaf.entry.task!r} of the suite;"
                " take one out"
            )


def _check_cluster(entry: SuiteTask, name: str, task: Any) -> None:
    column = entry.cluster_by
    if column is not None and column not in (document := task.eval_docs[0]):
        raise BadInputError(
            f"Task {name}: there is no column {column!r} (cluster_by); use one of"
            f" {', '.join(map(str, document))}."
        )


def _filter(entry: SuiteTask, name: str, task: Any) -> str:
    """Return the filter that an entry names; a task's only one where it names none."""
    filters = [str(found.name) for found in task._filters]
    if entry.filter in filters:
        return entry.filter
    if entry.filter != "none" or len(filters) > 1:
        raise BadInputError(
            f"Task {name}: no filter {entry.filter!r}; the task has {', '.join(sorted(filters))}."
        )
    return filters[0]


def _check_groups(leaves: Sequence[LeafTask]) -> None:
    """Check that the tasks of a group are scored by the same metric."""
    first: dict[str, LeafTask] = {}
    for leaf in leaves:
        other = first.setdefault(leaf.entry.task, leaf)
        if (leaf.metric.shown, leaf.metric.higher_is_better) != (
            other.metric.shown,
            other.metric.higher_is_better,
        ):
            raise BadInputError(
                f"Task {leaf.entry.task}: {other.name} is scored by {other.metric.shown} and"
                f" {leaf.name} by {leaf.metric.shown}; name a metric that all have."
            )


def _documents(entry: SuiteTask, name: str, task: Any) -> tuple[int, ...]:
    """Return the indices of the documents that an entry names."""
    available = len(task.eval_docs)
    first, end = entry.documents or (0, available)
    if end > available:
        raise BadInputError(
            f"Task {name}: the suite names the documents {first} to {end}, but there are"
            f" {available}."
        )
    return tuple(range(first, end))[: entry.limit]
