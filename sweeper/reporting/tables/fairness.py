"""The table of matched conditions, with the same rows for terminal and report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.text import Text

from sweeper.analysis.fairness import ConditionRow, Value
from sweeper.reporting.console import Chain, plain_table
from sweeper.reporting.text import formatting

TITLE = "Matched conditions"
COLUMNS = ("condition", "", "by arm")


def condition_cells(rows: Iterable[ConditionRow]) -> list[list[str]]:
    """Return the cells of each row, in the order of ``COLUMNS``."""
    return [[row.what, _state(row), _values(row)] for row in rows]


def conditions_view(rows: Sequence[ConditionRow]) -> RenderableType:
    """Build the table for a terminal."""
    table = plain_table()
    for name in COLUMNS[:2]:
        table.add_column(name, no_wrap=True)
    table.add_column(COLUMNS[2])
    for row, (what, state, values) in zip(rows, condition_cells(rows), strict=True):
        style = "" if row.state == "differs" else "dim"
        table.add_row(Text(what), Text(state), Chain(values), style=style)
    return table


def conditions_note(rows: Sequence[ConditionRow]) -> str | None:
    """Return what to do if arms of different cost were compared only at equal steps."""
    apart = any(row.unit == "s" and row.at == "steps" and row.state == "differs" for row in rows)
    if not apart or any(row.at == "device_seconds" for row in rows):
        return None
    return (
        "Training times differ, but arms were compared only at equal steps. Set compare_at: [steps,"
        " device_seconds] to also train the cheaper arms for the same time."
    )


def _state(row: ConditionRow) -> str:
    if row.state != "close":
        return row.state
    numbers = list(map(float, row.values.values()))
    return f"within {100 * (max(numbers) / min(numbers) - 1):.1f} %"


def _values(row: ConditionRow) -> str:
    values = list(row.values.values())
    if row.state == "equal":
        return _shown(row, values[0])
    if row.state == "close":
        ends = [_shown(row, end) for end in (min(values, key=float), max(values, key=float))]
        return " to ".join(dict.fromkeys(ends))
    return " · ".join(f"{arm} {_shown(row, value)}" for arm, value in row.values.items())


def _shown(row: ConditionRow, value: Value) -> str:
    if isinstance(value, float):
        return formatting.seconds(value) if row.unit == "s" else formatting.count(value)
    return f"{value:,}" if isinstance(value, int) else value
