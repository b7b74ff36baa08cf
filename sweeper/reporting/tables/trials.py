"""The trials and confirmation runs of a study in the terminal."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from sweeper.analysis.comparison import scored_trials, selection_score
from sweeper.records.study_record import ArmRecord, StudyRecord
from sweeper.reporting.console import Chain, definitions, part, plain_table
from sweeper.reporting.tables.devices import failed_devices_part
from sweeper.reporting.tables.servers import served_part
from sweeper.reporting.text import formatting, search

_HEAD = ("trial", "state", "score", "seconds", "settings")
_LEAST = 10
"""Cells that settings need beside the other columns."""
_STATE_STYLES = {
    "completed": "green",
    "pruned": "yellow",
    "failed": "red",
    "running": "cyan",
    "waiting": "dim",
}


@dataclass(frozen=True)
class StatusView:
    """View of all trials and confirmation runs, with the reasons of failures.

    A narrow terminal omits standard errors.
    """

    record: StudyRecord

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        record, arms = self.record, self.record.arms
        ends = {"teacher": record.teacher, "starting student": record.starting_student}
        shown = [score for arm in arms for _, score in scored_trials(arm)]
        digits = formatting.score_digits([*shown, *map(selection_score, ends.values())])
        yield Text(_progress_sentence(record), style="bold")
        for label, outcome in ends.items():
            if outcome is not None:
                score = formatting.score(selection_score(outcome), digits)
                seconds = formatting.job_seconds(outcome)
                yield Text(f"{label}: {outcome.state}, {score}, {seconds} s", style="dim")
        # Line by line: a rich table of thousands of trials takes half a minute.
        rows = {arm.name: _trial_rows(arm, digits) for arm in arms}
        widths = _widths(rows.values())
        if sum(widths) + 2 * len(widths) > options.max_width:
            rows = {name: [_briefly(row) for row in full] for name, full in rows.items()}
            widths = _widths(rows.values())
        for arm in arms:
            method = "" if arm.name == arm.method else f" ({arm.method})"
            yield part(f"{arm.name}{method}: {len(arm.trials)} of {arm.budget} trials started")
            if rows[arm.name]:
                yield from _aligned(rows[arm.name], widths, console, options.max_width)
        if any(arm.finals for arm in arms):
            yield part("Confirmation runs", _confirmation_table(record, digits))
        if record.servers:
            yield served_part(record.servers)
        if record.device_faults:
            yield failed_devices_part(record.device_faults)
        if failed := [*search.failure_reasons(record), *_confirmation_failures(record)]:
            yield part("Failed trials", definitions((job, Text(why)) for job, why in failed))


def _progress_sentence(record: StudyRecord) -> str:
    states = Counter(trial.state for arm in record.arms for trial in arm.trials)
    budget = sum(arm.budget for arm in record.arms)
    parts = [f"{states['completed']} of {budget} trials completed"]
    shown = ("pruned", "failed", "running")
    parts += [f"{count} {state}" for state, count in states.items() if state in shown]
    if runs := Counter(run.state for arm in record.arms for run in arm.finals):
        parts.append(f"{runs['completed']} of {runs.total()} confirmation runs completed")
    return f"{record.study}: {', '.join(parts)}"


def _trial_rows(arm: ArmRecord, digits: int) -> list[tuple[str, ...]]:
    """Return the arm's trials as rows with the columns of ``_HEAD``."""
    return [
        (
            str(trial.number),
            formatting.trial_state(trial),
            formatting.score(selection_score(trial.outcome), digits),
            formatting.job_seconds(trial.outcome),
            formatting.trial_settings(trial) or formatting.NOTHING,
        )
        for trial in sorted(arm.trials, key=lambda trial: trial.number)
    ]


def _briefly(row: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``row`` without the kind of failure and the standard error."""
    number, state, score, *others = row
    return (number, state.partition(":")[0], score.partition(" ±")[0], *others)


def _widths(groups: Iterable[Sequence[tuple[str, ...]]]) -> list[int]:
    """Return the widths of the columns in cells."""
    rows = [_HEAD, *itertools.chain.from_iterable(groups)]
    return [max(map(cell_len, column)) for column in zip(*rows, strict=True)]


def _aligned(
    rows: Sequence[tuple[str, ...]], widths: Sequence[int], console: Console, max_width: int
) -> RenderResult:
    """Yield header and rows; numbers stand right, settings wrap under themselves."""

    def front(row: tuple[str, ...]) -> tuple[str, str, str]:
        number, state, score, seconds = row[:4]
        before = f"  {number:>{widths[0]}}  "
        after = f"  {score:>{widths[2]}}  {seconds:>{widths[3]}}  "
        return before, f"{state:<{widths[1]}}", after

    indent = sum(widths[:4]) + 2 * 5
    if max_width - indent < _LEAST:
        for number, state, score, seconds, settings in rows:
            yield Text(f"  #{number} {state}: {score}, {seconds} s", overflow="fold")
            yield Padding(Chain(settings), (0, 0, 0, 4))
        return
    styles = {state: console.get_style(style) for state, style in _STATE_STYLES.items()}
    yield Text("".join(front(_HEAD)) + _HEAD[4], style="dim")
    for row in rows:
        before, state, after = front(row)
        first, *more = Chain(row[4]).lines(max(max_width - indent, 1))
        style = styles[row[1].partition(":")[0]]
        yield from _line((before, None), (state, style), (after + first, None), width=max_width)
        for line in more:
            yield from _line((" " * indent + line, None), width=max_width)


def _line(*parts: tuple[str, Style | None], width: int) -> RenderResult:
    """Yield one line; a plain one that fits skips rich's slow layout."""
    text = "".join(part for part, _ in parts)
    if text.isprintable() and cell_len(text) <= width:
        yield from (Segment(part, style) for part, style in parts)
        yield Segment.line()
    else:
        yield Text.assemble(*((part, style or "") for part, style in parts), overflow="fold")


def _confirmation_table(record: StudyRecord, digits: int) -> Table:
    """Build the table of the confirmation runs, with their scores on the selection suite."""
    table = plain_table()
    for name in ("trial", "new seed", "at equal", "state", "score", "seconds"):
        right = name in ("new seed", "score", "seconds")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for arm in record.arms:
        for run in arm.finals:
            outcome, final = run.outcome, run.final
            table.add_row(
                f"  {arm.name} #{final.trial}",
                str(final.seed + 1),
                final.at.replace("_", " "),
                run.state,
                formatting.score(selection_score(outcome), digits),
                formatting.job_seconds(outcome),
            )
    return table


def _confirmation_failures(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """Yield the confirmation runs that failed, each with the reason."""
    for arm in record.arms:
        for run in arm.finals:
            if run.outcome is not None and run.outcome.failure is not None:
                name = f"{arm.name} #{run.final.trial} (new seed {run.final.seed + 1})"
                yield name, search.reason(run.outcome.failure)
