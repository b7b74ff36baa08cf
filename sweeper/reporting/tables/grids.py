"""Tables as text, which the terminal and the report draw each in their own way."""

from __future__ import annotations

from typing import NamedTuple

from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from sweeper.reporting.console import fits, plain_table


class Grid(NamedTuple):
    """A table as text: the first column names the rows."""

    header: tuple[str, ...]
    rows: list[list[str]]
    ends: int = 0
    """Number of first rows that show the teacher and the starting student."""
    left: tuple[str, ...] = ()
    """Columns of words, next to the first; the others hold numbers."""


def without(grid: Grid, name: str) -> Grid:
    """Return the table without the column called ``name``."""
    at = grid.header.index(name)
    rows = [[*row[:at], *row[at + 1 :]] for row in grid.rows]
    return grid._replace(header=(*grid.header[:at], *grid.header[at + 1 :]), rows=rows)


def narrowed(grid: Grid, console: Console, options: ConsoleOptions) -> Table:
    """Draw the table for a terminal, without the last columns that do not fit.

    Where not even two do, the table lists all its cells below each other.
    """
    whole = drawn(grid)
    while not fits(table := drawn(grid), console, options):
        if len(grid.header) == 2:
            return whole
        grid = without(grid, grid.header[-1])
    return table


def drawn(grid: Grid) -> Table:
    """Draw the table for a terminal, with headers on two lines."""
    table = plain_table()
    for index, name in enumerate(grid.header):
        words = name.replace(" [", "\n[") if "[" in name else "\n".join(name.rsplit(" ", 1))
        left = index == 0 or name in grid.left
        table.add_column(Text(words), justify="left" if left else "right", no_wrap=True)
    for number, row in enumerate(grid.rows):
        # A bracket is no markup.
        table.add_row(*map(Text, row), style="dim" if number < grid.ends else "")
    return table
