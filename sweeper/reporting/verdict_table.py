"""The verdict in the terminal: its sentence, the winners on the test suite, and the comparisons."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from sweeper.analysis.verdict import ArmVerdict, Interval, Verdict
from sweeper.reporting import formatting
from sweeper.reporting.console import bulleted, full_width, heading, plain_table
from sweeper.reporting.verdict_wording import headline, notes, sentences

COLUMNS = ("test score", "95 % interval", "search's luck", "gap closed", "steps", "device seconds")
"""Of the table of winners, beside the arm; in a narrow terminal without the last ones."""

DIGITS = 3
"""After the point."""


def verdict_view(verdict: Verdict) -> RenderableType:
    """What a study proves."""
    return _VerdictView(verdict)


def measures(verdict: Verdict) -> list[str]:
    """The measures at which the arms were compared."""
    return list(dict.fromkeys(pair.at for pair in verdict.pairs))


def arm_cells(arm: ArmVerdict) -> list[str]:
    """A winner as ``COLUMNS``."""
    return [
        f"{arm.test.mean:.{DIGITS}f}",
        interval(arm.test),
        f"{round(arm.inflation, DIGITS) + 0.0:+.{DIGITS}f}",
        gap(arm),
        f"{arm.max_steps:,}",
        formatting.seconds(arm.device_seconds),
    ]


def end_cells(end: Interval) -> list[str]:
    """The teacher, or the starting student, as ``COLUMNS``."""
    return [f"{end.mean:.{DIGITS}f}", interval(end), "", "", "", ""]


def interval(found: Interval) -> str:
    """``0.412 to 0.498``."""
    return f"{found.low:.{DIGITS}f} to {found.high:.{DIGITS}f}"


def gap(arm: ArmVerdict) -> str:
    """The share of the gap that was closed, with its interval: ``31 % (5 to 58)``."""
    told = formatting.percent(arm.gap_closed)
    if arm.gap_interval is None:
        return told
    low, high = (f"{end * 100:.0f}" for end in arm.gap_interval)
    return f"{told} ({low} to {high})"


class _VerdictView:
    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        verdict = self._verdict
        yield Text(headline(verdict), style="bold")
        for at in measures(verdict):
            yield ""
            equal = at.replace("_", " ")
            yield heading(f"Winners on the test suite {verdict.suite}, at equal {equal}")
            for count in range(len(COLUMNS), 1, -1):
                table = self._winners(at, count)
                if full_width(console, options, table) <= options.max_width:
                    break
            yield table
            yield bulleted(sentences(verdict, at), style="")
        if told := notes(verdict):
            yield ""
            yield bulleted(told)

    def _winners(self, at: str, count: int) -> Table:
        table = plain_table()
        table.add_column("arm", no_wrap=True)
        for name in COLUMNS[:count]:
            table.add_column(name, justify="right", no_wrap=True)
        ends = (("teacher", self._verdict.teacher), ("start", self._verdict.starting_student))
        for label, end in ends:
            if end is not None:
                table.add_row(label, *end_cells(end)[:count], style="dim")
        for arm in self._verdict.at(at):
            table.add_row(f"{arm.arm} #{arm.trial}", *arm_cells(arm)[:count])
        return table
