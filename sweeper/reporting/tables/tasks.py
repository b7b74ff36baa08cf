"""The table of winners by task, for terminal and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult

from sweeper.analysis.by_task import ArmOnTask, TaskResult
from sweeper.reporting.console import bulleted
from sweeper.reporting.tables import grids
from sweeper.reporting.tables.grids import Grid
from sweeper.reporting.tables.verdict import DIGITS
from sweeper.reporting.text import formatting

TITLE = "The test suite task by task"


def task_grid(results: Sequence[TaskResult]) -> Grid:
    """Build the means of teacher, start and winners by task, with the gap that each closed."""
    scored = {
        "teacher": [result.teacher for result in results],
        "start": [result.starting_student for result in results],
    }
    ends = [
        [name, *("" if value is None else f"{value:.{DIGITS}f}" for value in values)]
        for name, values in scored.items()
    ]
    winners = dict.fromkeys((arm.arm, arm.trial) for result in results for arm in result.arms)
    rows = [
        [f"{name} #{trial}", *(_cell(result, name) for result in results)]
        for name, trial in winners
    ]
    return Grid(("arm", *(result.task for result in results)), [*ends, *rows], len(ends))


def task_notes(results: Sequence[TaskResult]) -> list[str]:
    """Return what each task measures, and what the numbers in brackets mean."""
    measured = (
        f"{result.task}: {result.metric}, {'higher' if result.higher_is_better else 'lower'} is"
        f" better, {result.documents} documents, {_part(result, results)}."
        for result in results
    )
    return [
        *measured,
        "Means over the new seeds, at equal steps; in brackets the gap closed, the share of the way"
        " from the starting student to the teacher. Single tasks are not tested: the primary"
        " comparisons use the suite's score.",
    ]


def _part(result: TaskResult, results: Sequence[TaskResult]) -> str:
    if not result.weight:
        return "no part of the score"
    share = result.weight / sum(other.weight for other in results)
    return "the whole score" if share == 1 else f"{formatting.percent(share)} of the score"


def _cell(result: TaskResult, name: str) -> str:
    arm: ArmOnTask | None = next((arm for arm in result.arms if arm.arm == name), None)
    if arm is None:
        return formatting.NOTHING
    closed = "" if arm.gap_closed is None else f" ({formatting.percent(arm.gap_closed)})"
    return f"{arm.mean:.{DIGITS}f}{closed}"


@dataclass(frozen=True)
class TaskView:
    """Table for a terminal, with its notes."""

    results: Sequence[TaskResult]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield grids.narrowed(task_grid(self.results), console, options)
        yield ""
        yield bulleted(task_notes(self.results))
