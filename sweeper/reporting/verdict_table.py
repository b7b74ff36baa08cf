"""The verdict in the terminal: its sentence, the winners on the test suite, and the comparisons."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sweeper.analysis.verdict import ArmVerdict, Interval, Verdict
from sweeper.reporting import formatting
from sweeper.reporting.console import heading

COLUMNS = ("test score", "95 % interval", "search's luck", "gap closed", "steps", "device seconds")
"""Of the table of winners, beside the arm; in a narrow terminal without the last ones."""

CONCLUSIONS = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "inconclusive": "cannot be told",
}
"""The conclusions in a few words."""


def verdict_view(verdict: Verdict) -> RenderableType:
    """What a study proves."""
    return _VerdictView(verdict)


def measures(verdict: Verdict) -> list[str]:
    """The measures at which the arms were compared."""
    return list(dict.fromkeys(pair.at for pair in verdict.pairs))


def arm_cells(arm: ArmVerdict, digits: int) -> list[str]:
    """A winner as ``COLUMNS``."""
    return [
        f"{arm.test.mean:.{digits}f}",
        interval(arm.test, digits),
        f"{round(arm.inflation, digits) + 0.0:+.{digits}f}",
        formatting.percent(arm.gap_closed),
        f"{arm.max_steps:,}",
        formatting.seconds(arm.device_seconds),
    ]


def end_cells(end: Interval, digits: int) -> list[str]:
    """The teacher, or the starting student, as ``COLUMNS``."""
    return [f"{end.mean:.{digits}f}", interval(end, digits), "", "", "", ""]


def interval(found: Interval, digits: int) -> str:
    """``0.412 to 0.498``."""
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def digits_of(verdict: Verdict) -> int:
    """Digits after the point that the intervals are worth."""
    widths = [arm.test.high - arm.test.low for arm in verdict.arms]
    return 3 if any(width > 0 for width in widths) else 2


class _VerdictView:
    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        verdict = self._verdict
        yield Text(verdict.sentence, style="bold")
        for at in measures(verdict):
            yield ""
            equal = at.replace("_", " ")
            yield heading(f"Winners on the test suite {verdict.suite}, at equal {equal}")
            for count in range(len(COLUMNS), 1, -1):
                table = self._winners(at, count)
                wanted = Measurement.get(console, options.update(width=10_000), table).maximum
                if wanted <= options.max_width:
                    break
            yield table
            lines = [pair.sentence for pair in verdict.pairs if pair.at == at]
            yield _bulleted(lines)
        if verdict.notes:
            yield ""
            yield _bulleted(verdict.notes)

    def _winners(self, at: str, count: int) -> Table:
        digits = digits_of(self._verdict)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="dim", pad_edge=False)
        table.add_column("arm", no_wrap=True)
        for name in COLUMNS[:count]:
            table.add_column(name, justify="right", no_wrap=True)
        ends = (("teacher", self._verdict.teacher), ("start", self._verdict.starting_student))
        for label, end in ends:
            if end is not None:
                table.add_row(label, *end_cells(end, digits)[:count], style="dim")
        for arm in self._verdict.at(at):
            table.add_row(f"{arm.arm} #{arm.trial}", *arm_cells(arm, digits)[:count])
        return table


def _bulleted(lines: Sequence[str]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    for line in lines:
        table.add_row(Text("·"), Text(line))
    return table
