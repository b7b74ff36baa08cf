"""The diagnosis of a pair in the report, in the terminal and as JSON, beside what came out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from sweeper.analysis.pair import PairSummary, summarize_pairs
from sweeper.reporting.console import definitions, part
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.text.markdown_escape import cell, inline, table
from sweeper.reporting.text.pair import TITLE, basis, pair_rows, pair_warnings


def pair_sections(page: ReportData) -> Iterator[str]:
    """Yield what was measured of the study's pairs before training; nothing without a probe."""
    for number, pair in enumerate(_pairs(page)):
        if number == 0:
            yield f"## {TITLE}"
            yield f"What came out: {inline(page.headline)}"
        yield inline(basis(pair))
        rows = [
            [
                f"**{cell(row.name)}**" if row.advice else cell(row.name),
                cell(row.value),
                cell(f"{row.meaning}."),
                cell(f"if {row.worry}."),
            ]
            for row in pair_rows(pair)
        ]
        yield table(["measure", "here", "what it means", "worry"], rows, left=(0, 1, 2, 3))
        if warnings := pair_warnings(pair):
            yield "\n".join(f"- {inline(warning)}" for warning in warnings)


def pair_view(page: ReportData) -> Iterator[RenderableType]:
    """Yield the same for the terminal, without what the numbers mean."""
    for pair in _pairs(page):
        rows = (
            (row.name, Text(f"{row.value}. {row.advice}", style="yellow" if row.advice else ""))
            for row in pair_rows(pair)
        )
        yield part(TITLE, Text(basis(pair), style="dim"), definitions(rows))


def pair_json(page: ReportData) -> dict[str, Any]:
    """Return the diagnosis as plain JSON values, its warnings included."""
    found = [
        {**pair.model_dump(mode="json"), "warnings": pair_warnings(pair)} for pair in _pairs(page)
    ]
    return {"pair": found} if found else {}


def _pairs(page: ReportData) -> tuple[PairSummary, ...]:
    return summarize_pairs(page.record.pair) if page.record.pair else ()
