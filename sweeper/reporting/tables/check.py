"""A preflight in the terminal and as JSON: its findings, and the study's statistical power."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.analysis.findings import Finding, Preflight
from sweeper.analysis.power import Design
from sweeper.reporting.console import Columns, heading, plain_table
from sweeper.reporting.tables.time_estimate import estimate_view
from sweeper.reporting.text.terminal_escape import visible

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}


def check_view(preflight: Preflight) -> RenderableType:
    """Return all findings, the smallest differences by number of seeds, and the time by arm."""
    parts: list[RenderableType] = [_rows(preflight.findings)]
    if preflight.design is not None:
        parts += ["", *_design(preflight.design)]
    if preflight.estimate is not None:
        parts += ["", *estimate_view(preflight.estimate)]
    return Group(*parts)


def preflight_view(preflight: Preflight) -> RenderableType:
    """Return the warnings, and the names of what is well: what a study shows that begins."""
    warnings = [finding for finding in preflight.findings if finding.state == "warning"]
    well = dict.fromkeys(finding.what for finding in preflight.findings if finding.state == "ok")
    sign, style = _SIGNS["ok"]
    return Group(_rows(warnings), Text.assemble((sign, style), f"  {', '.join(well)}"))


def _rows(findings: Iterable[Finding]) -> Table:
    table = Columns.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        sign, style = _SIGNS[finding.state]
        place = f"{finding.place}: " if finding.place else ""
        text = visible(place + sentence(finding))
        table.add_row(Text(sign, style=style), finding.what, Text(text, overflow="fold"))
    return table


def sentence(finding: Finding) -> str:
    """Return a finding and its advice as text."""
    stop = "" if finding.detail.endswith(".") else "."
    return f"{finding.detail}{stop} {finding.advice}" if finding.advice else finding.detail


def _design(design: Design) -> list[RenderableType]:
    table = plain_table()
    table.add_column("seeds", justify="right")
    for variances in design.variances:
        table.add_column(variances.name, justify="right")
    for row in design.rows:
        style = "bold" if row.seeds == design.seeds else ""
        table.add_row(str(row.seeds), *(f"{size:.3f}" for size in row.differences), style=style)
    title = f"Smallest difference that {design.documents:,} documents detect, by seeds"
    return [heading(title), table, Text(f"Variances: {design.basis}.", style="dim")]
