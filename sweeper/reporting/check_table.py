"""``sweeper check`` in the terminal and as JSON: what was found, and what the study can show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.analysis.findings import Finding
from sweeper.analysis.power import Design
from sweeper.reporting.console import heading, plain_table

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}


def check_view(findings: Sequence[Finding], design: Design | None) -> RenderableType:
    """All findings, and the smallest differences by number of seeds."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        sign, style = _SIGNS[finding.state]
        text = Text(finding.detail)
        if finding.advice:
            text.append(f" {finding.advice}" if text.plain.endswith(".") else f". {finding.advice}")
        table.add_row(Text(sign, style=style), finding.what, text)
    if design is None:
        return table
    return Group(table, "", *_design(design))


def check_json(findings: Sequence[Finding], design: Design | None) -> dict[str, Any]:
    """The same for programs."""
    return {
        "findings": [finding.model_dump(mode="json") for finding in findings],
        "design": None if design is None else design.model_dump(mode="json"),
    }


def _design(design: Design) -> list[RenderableType]:
    table = plain_table()
    table.add_column("seeds", justify="right")
    for variances in design.variances:
        table.add_column(variances.name, justify="right")
    for row in design.rows:
        cells = [f"{size:.3f}" for size in row.differences]
        style = "bold" if row.seeds == design.seeds else ""
        table.add_row(str(row.seeds), *cells, style=style)
    title = f"Smallest difference that {design.documents:,} documents show, by seeds"
    return [heading(title), table, Text(f"Variances: {design.basis}.", style="dim")]
