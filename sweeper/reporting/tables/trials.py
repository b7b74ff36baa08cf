"""The list of a study's trials in the terminal."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from sweeper.analysis.comparison import scored_trials, selection_score
from sweeper.records.study_record import ArmRecord, StudyRecord
from sweeper.reporting.console import Chain, definitions, heading, plain_table
from sweeper.reporting.text import formatting, wording

_HEAD = ("trial", "state", "score", "seconds", "settings")
_STATE_STYLES = {
    "completed": "green",
    "pruned": "yellow",
    "failed": "red",
    "running": "cyan",
    "waiting": "dim",
}


def status_view(record: StudyRecord) -> RenderableType:
    """All trials of a study, and why some failed."""
    return _StatusView(record)


class _StatusView:
    """One table an arm, with the same columns; in a narrow terminal without standard errors."""

    def __init__(self, record: StudyRecord) -> None:
        self._record = record
        self._ends = [
            (label, outcome)
            for label, outcome in (
                ("teacher", record.teacher),
                ("starting student", record.starting_student),
            )
            if outcome is not None
        ]
        shown = [score for arm in record.arms for _, score in scored_trials(arm)]
        ends = [selection_score(outcome) for _, outcome in self._ends]
        self._digits = formatting.score_digits([*shown, *ends])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        arms = self._record.arms
        yield Text(_progress_sentence(self._record), style="bold")
        for label, outcome in self._ends:
            score = formatting.score(selection_score(outcome), self._digits)
            seconds = formatting.seconds(max(outcome.finished - outcome.started, 0.0))
            yield Text(f"{label}: {outcome.state}, {score}, {seconds} s", style="dim")
        # Line by line: a rich table of thousands of trials takes half a minute.
        rows = {arm.name: _trial_rows(arm, self._digits) for arm in arms}
        widths = _widths(rows.values())
        if sum(widths) + 2 * len(widths) > options.max_width:
            rows = {name: [_briefly(row) for row in found] for name, found in rows.items()}
            widths = _widths(rows.values())
        for arm in arms:
            yield ""
            method = "" if arm.name == arm.method else f" ({arm.method})"
            yield heading(f"{arm.name}{method}: {len(arm.trials)} of {arm.budget} trials begun")
            if rows[arm.name]:
                yield from _aligned(rows[arm.name], widths, console, options.max_width)
        if any(arm.finals for arm in arms):
            yield ""
            yield heading("Winners, trained again")
            yield winner_table(self._record, self._digits)
        if reasons := [*_reasons(self._record), *winner_failures(self._record)]:
            yield ""
            yield heading("Failed trials")
            yield definitions(reasons)


def _progress_sentence(record: StudyRecord) -> str:
    states = Counter(trial.state for arm in record.arms for trial in arm.trials)
    budget = sum(arm.budget for arm in record.arms)
    parts = [f"{states['completed']} of {budget} trials completed"]
    for state, count in states.items():
        if state in ("pruned", "failed", "running"):
            parts.append(f"{count} {state}")
    if again := winner_counts(record):
        parts.append(again)
    return f"{record.study}: {', '.join(parts)}"


def _trial_rows(arm: ArmRecord, digits: int) -> list[tuple[str, ...]]:
    """The arm's trials as the columns of ``_HEAD``."""
    rows: list[tuple[str, ...]] = []
    for trial in sorted(arm.trials, key=lambda trial: trial.number):
        outcome = trial.outcome
        state: str = trial.state
        if outcome is not None and outcome.failure is not None:
            state += f": {formatting.FAILURE_NAMES[outcome.failure.kind]}"
        rows.append(
            (
                str(trial.number),
                state,
                formatting.score(selection_score(outcome), digits),
                formatting.trial_seconds(trial),
                formatting.settings(trial.params) or formatting.NOTHING,
            )
        )
    return rows


def _briefly(row: tuple[str, ...]) -> tuple[str, ...]:
    """A row without the kind of failure and the standard error."""
    number, state, score, *others = row
    return (number, state.partition(":")[0], score.partition(" ±")[0], *others)


def _widths(groups: Iterable[Sequence[tuple[str, ...]]]) -> list[int]:
    """Of the columns, in cells."""
    rows = [_HEAD, *itertools.chain.from_iterable(groups)]
    return [max(map(cell_len, column)) for column in zip(*rows, strict=True)]


def _aligned(
    rows: Sequence[tuple[str, ...]], widths: Sequence[int], console: Console, max_width: int
) -> RenderResult:
    """A heading and the rows, numbers to the right, the settings wrapped under themselves."""

    def front(row: tuple[str, ...]) -> tuple[str, str, str]:
        number, state, score, seconds = row[:4]
        before = f"  {number:>{widths[0]}}  "
        after = f"  {score:>{widths[2]}}  {seconds:>{widths[3]}}  "
        return before, f"{state:<{widths[1]}}", after

    indent = sum(widths[:4]) + 2 * 5
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
    """One line; one that is plain and fits goes without rich's layout, which is slow."""
    text = "".join(part for part, _ in parts)
    if text.isprintable() and cell_len(text) <= width:
        yield from (Segment(part, style) for part, style in parts)
        yield Segment.line()
    else:
        yield Text.assemble(*((part, style or "") for part, style in parts), overflow="fold")


def _reasons(record: StudyRecord) -> Iterator[tuple[str, RenderableType]]:
    """Each reason of failure once, with the jobs that ended by it."""
    for label, outcome in (("teacher", record.teacher), ("student", record.starting_student)):
        if outcome is not None and outcome.failure is not None:
            yield label, Text(wording.reason(outcome.failure))
    for arm in record.arms:
        for reason, numbers in wording.reasons(arm).items():
            yield f"{arm.name} {formatting.trial_numbers(numbers)}", Text(reason)


def winner_table(record: StudyRecord, digits: int) -> Table:
    """One line a training, with its score on the selection suite: the test suite's is the report's.

    Args:
        record: The study.
        digits: Of a score, after the point.
    """
    table = plain_table()
    for name in ("trial", "new seed", "at equal", "state", "score", "seconds"):
        right = name in ("new seed", "score", "seconds")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for arm in record.arms:
        for found in arm.finals:
            outcome, final = found.outcome, found.final
            seconds = outcome.finished - outcome.started if outcome else None
            table.add_row(
                f"  {arm.name} #{final.trial}",
                str(final.seed + 1),
                final.at.replace("_", " "),
                found.state,
                formatting.score(selection_score(outcome), digits),
                formatting.NOTHING if seconds is None else formatting.seconds(max(seconds, 0.0)),
            )
    return table


def winner_counts(record: StudyRecord) -> str:
    """``3 of 6 trainings of winners completed``, or nothing before there are any."""
    states = Counter(final.state for arm in record.arms for final in arm.finals)
    if not states:
        return ""
    return f"{states['completed']} of {states.total()} trainings of winners completed"


def winner_failures(record: StudyRecord) -> Iterator[tuple[str, RenderableType]]:
    """Why some have no score."""
    for arm in record.arms:
        for found in arm.finals:
            if found.outcome is not None and found.outcome.failure is not None:
                name = f"{arm.name} #{found.final.trial} (new seed {found.final.seed + 1})"
                yield name, Text(wording.reason(found.outcome.failure))
