"""A preflight in the terminal and as JSON: what was found, and what the study can show."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeper.analysis.findings import Finding, Preflight
from sweeper.analysis.power import Design
from sweeper.reporting.console import heading, plain_table
from sweeper.reporting.tables.time_estimate import estimate_view
from sweeper.reporting.text.terminal_escape import visible

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}


def check_view(found: Preflight) -> RenderableType:
    """All findings, the smallest differences by number of seeds, and the time by arm."""
    parts: list[RenderableType] = [_rows(found.findings)]
    if found.design is not None:
        parts += ["", *_design(found.design)]
    if found.estimate is not None:
        parts += ["", *estimate_view(found.estimate)]
    return Group(*parts)


def preflight_view(found: Preflight) -> RenderableType:
    """The same in short, for a study that begins: what to know, and the names of what is well."""
    told = [finding for finding in found.findings if finding.state == "warning"]
    well = dict.fromkeys(finding.what for finding in found.findings if finding.state == "ok")
    sign, style = _SIGNS["ok"]
    return Group(_rows(told), Text.assemble((sign, style), f"  {', '.join(well)}"))


def check_json(found: Preflight) -> dict[str, Any]:
    """The same for programs."""
    return found.model_dump(mode="json")


def _rows(findings: Iterable[Finding]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
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
    """What was found, and what to do about it."""
    text = finding.detail
    if not finding.advice:
        return text
    return f"{text} {finding.advice}" if text.endswith(".") else f"{text}. {finding.advice}"


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
