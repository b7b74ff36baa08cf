"""Pieces that all views of the terminal share.

A view measures the terminal when it is printed, and shows what fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
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

    def __str__(self) -> str:
        return self._text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        longest = max(len(part) for part in self._text.split(self._SEPARATOR))
        return Measurement(longest, len(self._text)).with_maximum(options.max_width)


def heading(text: str) -> Text:
    """Return the title of a part."""
    return Text(text, style="bold")


def part(title: str, *views: RenderableType) -> Group:
    """Group the views of a part below its title and a blank line."""
    return Group("", heading(title), *views)


class Columns(Table):
    """Table that lists its cells below each other where its columns do not fit side by side."""

    _COMFORTABLE = 20
    """Cells that a column of texts needs before its lines become single words."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._needs(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        cells = [list(column.cells) for column in self.columns]
        for row, values in zip(self.rows, zip(*cells, strict=True), strict=True):
            style = row.style or ""
            # What names a row stands on its first line: a sign and a name, or a name.
            names = 1 if self.show_header else max(1, sum(c.no_wrap for c in self.columns))
            first = " ".join(_plain(value).strip() for value in values[:names])
            yield Text(first, style=style, overflow="fold")
            for column, value in zip(self.columns[names:], values[names:], strict=True):
                text = _plain(value)
                header = _plain(column.header).replace("\n", " ") if self.show_header else ""
                if text.strip():
                    told = Text(f"{header}: {text}" if header else text, style, overflow="fold")
                    yield Padding(told, (0, 0, 0, 2))

    def _needs(self, console: Console, options: ConsoleOptions) -> int:
        """Return the width in which no cell is cut, and no text is a column of single words."""
        wide = options.update(width=10_000)
        widths = []
        for column in self.columns:
            parts = [column.header, *column.cells] if self.show_header else list(column.cells)
            sizes = [Measurement.get(console, wide, part).maximum for part in parts]
            width = max(sizes, default=0)
            widths.append(width if column.no_wrap else min(width, self._COMFORTABLE))
        padding = self.padding[1] + self.padding[3]
        return sum(widths) + padding * (len(widths) - (not self.pad_edge))


def _plain(value: RenderableType) -> str:
    return value.plain if isinstance(value, Text) else str(value)


def definitions(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Build a list of names and values, the values aligned and wrapped under themselves."""
    table = Columns.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(f"  {name}"), value)
    return table


def plain_table() -> Table:
    """Return an empty table without lines."""
    return Columns(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)


def fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    """Return whether the table fits without being cut or wrapped."""
    width = Measurement.get(console, options.update(width=10_000), table).maximum
    return width <= options.max_width


def bulleted(lines: Iterable[str], style: str = "dim") -> Table:
    """Build a bulleted list."""
    table = Table.grid(padding=(0, 1, 0, 0))
    for line in lines:
        table.add_row(Text("·"), Text(line, overflow="fold"), style=style)
    return table
