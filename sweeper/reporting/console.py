"""What the terminal shows about a study that has records: the comparison, and the list of trials.

Both views measure the terminal when they are printed, and show what fits into it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from sweeper.analysis.comparison import (
    ArmSummary,
    Comparison,
    scored_trials,
    selection_score,
)
from sweeper.records import ArmRecord, StudyRecord
from sweeper.reporting import formatting, wording

Column = Literal["trials", "settings", "score", "difference", "gap", "steps", "tokens", "seconds"]


class _Layout(NamedTuple):
    columns: tuple[Column, ...]
    bar: int
    """The width of the gap's bar; 0 leaves the percentage alone."""
    long_names: bool = True
    """Whether rows also say what the name does not: the method, the floor, the ceiling."""


_WITHOUT_SETTINGS: tuple[Column, ...] = (
    "trials",
    "score",
    "difference",
    "gap",
    "steps",
    "tokens",
    "seconds",
)
_FEW: tuple[Column, ...] = ("trials", "score", "difference", "gap", "seconds")
_LAYOUTS = (
    _Layout((*_WITHOUT_SETTINGS, "settings"), 16),
    _Layout((*_WITHOUT_SETTINGS, "settings"), 8),
    _Layout(_WITHOUT_SETTINGS, 16),
    _Layout(_WITHOUT_SETTINGS, 8),
    _Layout(_FEW, 12),
    _Layout(_FEW, 8),
    _Layout(_FEW, 8, long_names=False),
    _Layout(_FEW, 0, long_names=False),
    _Layout(("score", "difference", "seconds"), 0, long_names=False),
    _Layout(("score", "seconds"), 0, long_names=False),
)
"""From the widest table to the narrowest."""

_HEADERS: dict[Column, str] = {
    "trials": "trials\n{}",
    "settings": "best settings",
    "score": "score\n± std error",
    "difference": "to the best\noffline arm",
    "gap": "gap closed\nfloor→ceiling",
    "steps": "steps",
    "tokens": "tokens\ntrained/sampled",
    "seconds": "device\nseconds",
}
_HEAD = ("trial", "state", "score", "seconds", "settings")
_STATE_STYLES = {
    "completed": "green",
    "pruned": "yellow",
    "failed": "red",
    "running": "cyan",
    "waiting": "dim",
}


def show(view: RenderableType, console: Console) -> None:
    """Print ``view``; in a file or a pipe without the blanks that fill a terminal's lines."""
    if console.is_terminal:
        console.print(view)
        return
    with console.capture() as capture:
        console.print(view)
    console.file.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def notice(record: StudyRecord, console: Console) -> None:
    """Print that code from outside was allowed to run, if it was."""
    if text := wording.code_notice(record.config):
        show(Text(text, style="bold yellow"), console)


def comparison_view(comparison: Comparison) -> RenderableType:
    """The final report of a study: the verdict, a table of the arms, and what to keep in mind."""
    return _ComparisonView(comparison)


def status_view(record: StudyRecord) -> RenderableType:
    """All trials of a study, and why some failed."""
    return _StatusView(record)


class _ComparisonView:
    """Chooses its columns by the width that it is given."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        comparison = self._comparison
        yield Text(wording.headline(comparison), style="bold")
        yield ""
        layout, table = self._fitting_table(console, options)
        yield table
        if "settings" not in layout.columns and any(arm.best for arm in comparison.arms):
            yield ""
            priced = "tokens" not in layout.columns
            yield _heading(
                "Best settings, steps, tokens trained / sampled" if priced else "Best settings"
            )
            yield _definitions(
                (formatting.arm_name(arm), _Chain(_best(arm, priced=priced)))
                for arm in comparison.arms
            )
        if any(arm.front for arm in comparison.arms):
            yield ""
            yield _heading(f"Pareto fronts: {formatting.listed(comparison.objectives)}")
            digits = formatting.comparison_digits(comparison)
            yield _definitions(
                (f"{arm.name} #{point.trial.number}", _Chain(formatting.front_point(point, digits)))
                for arm in comparison.arms
                for point in arm.front
            )
        if failures := wording.failures(comparison):
            yield ""
            yield _heading("Failed trials")
            yield _definitions((name, Text(kinds)) for name, kinds in failures)
        if notes := wording.notes(comparison):
            yield ""
            yield _bulleted(notes)

    def _fitting_table(self, console: Console, options: ConsoleOptions) -> tuple[_Layout, Table]:
        for layout in _LAYOUTS:
            table = self._table(layout, ascii_only=options.ascii_only)
            if _full_width(console, options, table) <= options.max_width:
                break
        return layout, table

    def _table(self, layout: _Layout, *, ascii_only: bool) -> Table:
        comparison, bar = self._comparison, layout.bar
        digits = formatting.comparison_digits(comparison)
        table = _plain_table()
        table.add_column("arm", no_wrap=True, overflow="ellipsis")
        for name in layout.columns:
            left = name == "settings" or (name == "gap" and bar)
            header = "gap\nclosed" if name == "gap" and not bar else _HEADERS[name]
            header = header.format(formatting.trial_states(comparison))
            table.add_column(header, justify="left" if left else "right", no_wrap=True)

        def gap(share: float | None) -> str:
            if share is None or not bar:
                return formatting.percent(share)
            return f"{_bar(share, bar, ascii_only=ascii_only)} {formatting.percent(share):>5}"

        ends = (
            ("teacher", "ceiling", comparison.teacher, 1.0),
            ("start", "floor", comparison.starting_student, 0.0),
        )
        for model, role, value, share in ends:
            if value is None:
                continue
            cells: dict[Column, str] = {"score": formatting.score(value, digits)}
            if any(arm.gap_closed is not None for arm in comparison.arms):
                cells["gap"] = gap(share)
            label = f"{model} = {role}" if layout.long_names else model
            table.add_row(label, *(cells.get(name, "") for name in layout.columns), style="dim")
        for arm in comparison.arms:
            table.add_row(
                formatting.arm_name(arm) if layout.long_names else arm.name,
                *(
                    formatting.trial_counts(arm, comparison)
                    if name == "trials"
                    else Text(_cell(arm, name, digits, gap(arm.gap_closed)))
                    for name in layout.columns
                ),
                style="bold green" if arm.name in comparison.leaders else "",
            )
        return table


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
        for brief in (False, True):
            rows = {arm.name: _trial_rows(arm, self._digits, brief=brief) for arm in arms}
            widths = [
                max(cell_len(row[column]) for group in rows.values() for row in (_HEAD, *group))
                for column in range(len(_HEAD))
            ]
            if sum(widths) + 2 * len(widths) <= options.max_width:
                break
        for arm in arms:
            yield ""
            method = "" if arm.name == arm.method else f" ({arm.method})"
            yield _heading(f"{arm.name}{method}: {len(arm.trials)} of {arm.budget} trials begun")
            if rows[arm.name]:
                yield from _aligned(rows[arm.name], widths, console, options.max_width)
        if reasons := list(_reasons(self._record)):
            yield ""
            yield _heading("Failed trials")
            yield _definitions(reasons)


class _Chain:
    """``a · b · c``, broken only at its separators."""

    _SEPARATOR = " · "

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from (Text(line, overflow="fold") for line in self.lines(options.max_width))

    def lines(self, width: int) -> Iterator[str]:
        """The lines of at most ``width`` cells, unless one part alone is wider."""
        line = ""
        for part in self._text.split(self._SEPARATOR):
            longer = f"{line}{self._SEPARATOR}{part}" if line else part
            if line and cell_len(longer) > width:
                yield line
                line = part
            else:
                line = longer
        yield line

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        longest = max(len(part) for part in self._text.split(self._SEPARATOR))
        return Measurement(longest, len(self._text)).with_maximum(options.max_width)


def _best(arm: ArmSummary, *, priced: bool) -> str:
    """The best trial's settings, with what the table had no room to say of its cost."""
    settings = formatting.best_settings(arm)
    if not priced or arm.best is None or arm.best.outcome is None:
        return settings
    cost = arm.best.outcome.cost
    return f"{settings} · {cost.steps} steps · {formatting.tokens(cost)} tokens"


def _cell(arm: ArmSummary, column: Column, digits: int, gap: str) -> str:
    if arm.best is None or arm.best.outcome is None:
        return formatting.NOTHING if column == "score" else ""
    cost = arm.best.outcome.cost
    match column:
        case "settings":
            return formatting.best_settings(arm)
        case "score":
            return formatting.score(arm.best_score, digits)
        case "difference":
            return formatting.difference(arm.difference, digits)
        case "gap":
            return gap
        case "steps":
            return str(cost.steps)
        case "tokens":
            return formatting.tokens(cost)
        case _:
            return formatting.seconds(cost.device_seconds)


def _bar(share: float, width: int, *, ascii_only: bool) -> str:
    """A bar from the floor to the ceiling; an arrow shows a score beyond either."""
    full, empty, below, above = ("=", "-", "<", ">") if ascii_only else ("━", "─", "◂", "▸")
    filled = round(min(max(share, 0.0), 1.0) * width)
    bar = full * filled + empty * (width - filled)
    # Within rounding of an end, a score is at it.
    if share < -0.005:
        return below + bar[1:]
    return bar[:-1] + above if share > 1.005 else bar


def _plain_table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)


def _full_width(console: Console, options: ConsoleOptions, table: Table) -> int:
    """The width of a table of which nothing is wrapped."""
    return Measurement.get(console, options.update(width=10_000), table).maximum


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _definitions(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Names with a value each, the values aligned and wrapped under themselves."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(f"  {name}", value)
    return table


def _bulleted(lines: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    for line in lines:
        table.add_row(Text("·"), Text(line), style="dim")
    return table


def _progress_sentence(record: StudyRecord) -> str:
    states = Counter(trial.state for arm in record.arms for trial in arm.trials)
    budget = sum(arm.budget for arm in record.arms)
    parts = [f"{states['completed']} of {budget} trials completed"]
    for state, count in states.items():
        if state in ("pruned", "failed", "running"):
            parts.append(f"{count} {state}")
    return f"{record.study}: {', '.join(parts)}"


def _trial_rows(arm: ArmRecord, digits: int, *, brief: bool) -> list[tuple[str, ...]]:
    """The arm's trials as the columns of ``_HEAD``; brief: no kinds of failure, no errors."""
    rows: list[tuple[str, ...]] = []
    for trial in sorted(arm.trials, key=lambda trial: trial.number):
        outcome = trial.outcome
        state: str = trial.state
        if outcome is not None and outcome.failure is not None and not brief:
            state += f": {formatting.FAILURE_NAMES[outcome.failure.kind]}"
        score = formatting.score(selection_score(outcome), digits)
        rows.append(
            (
                str(trial.number),
                state,
                score.partition(" ±")[0] if brief else score,
                formatting.trial_seconds(trial),
                formatting.settings(trial.params) or formatting.NOTHING,
            )
        )
    return rows


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
        first, *more = _Chain(row[4]).lines(max(max_width - indent, 1))
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


def _reasons(record: StudyRecord) -> Iterator[tuple[str, Text]]:
    """Each reason of failure once, with the jobs that ended by it."""
    for label, outcome in (("teacher", record.teacher), ("student", record.starting_student)):
        if outcome is not None and outcome.failure is not None:
            yield label, Text(wording.reason(outcome.failure))
    for arm in record.arms:
        for reason, numbers in wording.reasons(arm).items():
            yield f"{arm.name} {formatting.trial_numbers(numbers)}", Text(reason)
