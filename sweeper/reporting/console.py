"""Pieces that all views of the terminal share.

A view measures the terminal when it is printed, and shows what fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sweeper.records.study_record import StudyRecord
from sweeper.reporting.text.formatting import listed
from sweeper.reporting.text.outside_code import outside_code


def show(view: RenderableType, console: Console) -> None:
    """Print ``view``; without trailing blanks in a file or a pipe."""
    if console.is_terminal:
        console.print(view)
        return
    with console.capture() as capture:
        console.print(view)
    console.file.writelines(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def notice(record: StudyRecord, console: Console) -> None:
    """Print a warning if the study allowed code from outside to run."""
    if keys := outside_code(record.config):
        text = f"Code from outside was allowed to run: {listed(keys)}."
        show(Text(text, style="bold yellow"), console)


class Chain:
    """Text such as ``a · b · c``, broken only at its separators."""

    _SEPARATOR = " · "

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from (Text(line, overflow="fold") for line in self.lines(options.max_width))

    def lines(self, width: int) -> Iterator[str]:
        """Break the text into lines of at most ``width`` cells; a wider part stays whole."""
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


def heading(text: str) -> Text:
    """Return the title of a part."""
    return Text(text, style="bold")


def part(title: str, *views: RenderableType) -> Group:
    """Group the views of a part below its title and a blank line."""
    return Group("", heading(title), *views)


def definitions(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Build a list of names and values, the values aligned and wrapped under themselves."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(Text(f"  {name}"), value)
    return table


def plain_table() -> Table:
    """Return an empty table without lines."""
    return Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)


def fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    """Return whether the table fits without being cut or wrapped."""
    width = Measurement.get(console, options.update(width=10_000), table).maximum
    return width <= options.max_width


def bulleted(lines: Iterable[str], style: str = "dim") -> Table:
    """Build a bulleted list."""
    table = Table.grid(padding=(0, 1, 0, 0))
    for line in lines:
        table.add_row(Text("·"), Text(line), style=style)
    return table
