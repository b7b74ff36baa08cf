"""Evaluation suites: which lm-eval tasks score a student, and how they make one number."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sweeper.config.base import Name, PositiveInt, Problems, Strict, short

PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""lm-eval's perplexity metrics: all three are scored as nats per byte, which add up."""


class SuiteTask(Strict):
    """One lm-eval task of a suite."""

    task: Annotated[str, Field(min_length=1)]
    """The task's name: one defined under `task_paths`, or any that lm-eval ships."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Solved examples put before each document; by default what the task says."""
    documents: Annotated[tuple[int, int], Field(strict=False)] | None = None
    """First document and end (excluded), counted from 0; by default all. Ranges that do not meet
    let a selection and a test suite come from one split."""
    limit: PositiveInt | None = None
    """Largest number of documents, from the start of `documents`."""
    metric: str | None = None
    """The metric to score by; by default the task's first."""
    filter: str = "none"
    """The lm-eval filter whose metric is read, as in `exact_match,strict-match`."""
    higher_is_better: bool | None = None
    """Direction of a document's value by the metric; by default what the task says."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """The task's share in the suite's weighted mean. 0: the task is scored and reported next to the
    suite's score, and has no part in it, in the search, or in the verdict."""
    cluster_by: str | None = None
    """A column of the documents: those with the same value belong together (questions on one text,
    for example) and count as one draw where the verdict asks what chance might have drawn.
    Documents that repeat do so without it."""

    @model_validator(mode="after")
    def _check(self) -> SuiteTask:
        problems = Problems()
        if self.documents is not None:
            first, end = self.documents
            if not 0 <= first < end:
                message = f"expected [first, end] with 0 <= first < end, found [{first}, {end}]"
                problems.add(("documents",), message)
        problems.raise_if_any()
        return self

    def shared(self, other: SuiteTask) -> range:
        """Return the documents that count in both; the end of the task's own is not known."""
        if self.task != other.task or not (self.weight and other.weight):
            return range(0)
        one, two = (
            range(*(entry.documents or (0, sys.maxsize)))[: entry.limit] for entry in (self, other)
        )
        return range(max(one.start, two.start), min(one.stop, two.stop))


class SuiteConfig(Strict):
    """A suite file: lm-eval tasks and the aggregate that is a study's objective."""

    suite: Name
    """The suite's name, as reports show it."""
    task_paths: Annotated[tuple[str, ...], Field(strict=False)] = ("tasks",)
    """Folders with lm-eval task files, relative to the suite file."""
    tasks: Annotated[tuple[SuiteTask, ...], Field(min_length=1, strict=False)]
    """The tasks to score."""
    aggregate: Literal["mean", "minimum"] = "mean"
    """Aggregate of the task scores that is the suite's score: their weighted mean, or the worst."""
    apply_chat_template: bool | Literal["auto"] = "auto"
    """True if prompts go through the chat template; `auto`: as in training."""
    system_instruction: str | None = None
    """A system prompt for every document."""

    @model_validator(mode="after")
    def _check(self) -> SuiteConfig:
        problems = Problems()
        for index, folder in enumerate(self.task_paths):
            if "\0" in folder:
                problems.add(("task_paths", index), f"expected a path, found {short(folder)}")
        seen: set[str] = set()
        for index, task in enumerate(self.tasks):
            if task.task in seen:
                problems.add(
                    ("tasks", index, "task"), f"expected each task once, found {task.task!r} again"
                )
            seen.add(task.task)
        if not any(task.weight for task in self.tasks):
            problems.add(("tasks",), "expected a task with a weight above 0, found none")
        problems.raise_if_any()
        return self
