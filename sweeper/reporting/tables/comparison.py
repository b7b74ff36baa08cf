"""The search's comparison in the terminal: headline, table of the arms, notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from sweeper.analysis.comparison import ArmSummary, Comparison
from sweeper.analysis.pareto import FrontPoint
from sweeper.reporting.console import Chain, bulleted, definitions, fits, part, plain_table
from sweeper.reporting.text import formatting, search
from sweeper.reporting.text.headline import search_headline

Column = Literal["trials", "settings", "score", "difference", "gap", "steps", "tokens", "seconds"]


class _Layout(NamedTuple):
    columns: tuple[Column, ...]
    bar: int
    """Width of the gap's bar; 0 for the percentage alone."""
    long_names: bool = True
    """True if names carry the method, the floor and the ceiling."""


_ALL: tuple[Column, ...] = ("trials", "score", "difference", "gap", "steps", "tokens", "seconds")
"""Columns of numbers."""
_FEW: tuple[Column, ...] = ("trials", "score", "difference", "gap", "seconds")
_LAYOUTS = (
    _Layout((*_ALL, "settings"), 16),
    _Layout((*_ALL, "settings"), 8),
    _Layout(_ALL, 16),
    _Layout(_ALL, 8),
    _Layout(_FEW, 12),
    _Layout(_FEW, 8),
    _Layout(_FEW, 8, long_names=False),
    _Layout(_FEW, 0, long_names=False),
    _Layout(("score", "difference", "seconds"), 0, long_names=False),
    _Layout(("score", "seconds"), 0, long_names=False),
)
"""Layouts from the widest table to the narrowest."""

_HEADERS: dict[Column, str] = {
    "trials": "trials\n{}",
    "settings": "best settings",
    "score": "score\n± std error",
    "difference": "to the best\noffline arm",
    "gap": "gap closed\nfloor→ceiling",
    "steps": "steps",
    "tokens": "tokens\ntrained/sampled",
    "seconds": "device\nseconds",
}


@dataclass(frozen=True)
class ComparisonView:
    """View of what the search found, with the columns that the terminal has room for."""

    comparison: Comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        comparison = self.comparison
        yield Text(search_headline(comparison), style="bold")
        yield ""
        for layout in _LAYOUTS:
            table = self._table(layout, ascii_only=options.ascii_only)
            if fits(table, console, options):
                break
        yield table
        if "settings" not in layout.columns and any(arm.best for arm in comparison.arms):
            priced = "tokens" not in layout.columns
            title = "Best settings" + ", steps, tokens trained / sampled" * priced
            best = [
                (formatting.arm_name(arm), Chain(_best(arm, priced=priced)))
                for arm in comparison.arms
            ]
            yield part(title, definitions(best))
        if any(arm.front for arm in comparison.arms):
            digits = formatting.comparison_digits(comparison)
            points = [
                (f"{arm.name} #{point.trial.number}", Chain(_front_point(point, digits)))
                for arm in comparison.arms
                for point in arm.front
            ]
            objectives = formatting.listed(comparison.objectives)
            yield part(f"Pareto fronts: {objectives}", definitions(points))
        if failures := search.failures(comparison):
            kinds = definitions((name, Text(counts)) for name, counts in failures)
            yield part("Failed trials", kinds)
        if notes := search.notes(comparison):
            yield ""
            yield bulleted(notes)

    def _table(self, layout: _Layout, *, ascii_only: bool) -> Table:
        comparison, bar = self.comparison, layout.bar
        digits = formatting.comparison_digits(comparison)
        cells: dict[Column, str]
        table = plain_table()
        table.add_column("arm", no_wrap=True, overflow="ellipsis")
        for name in layout.columns:
            left = name == "settings" or (name == "gap" and bar)
            header = "gap\nclosed" if name == "gap" and not bar else _HEADERS[name]
            header = header.format(formatting.trial_states(comparison))
            table.add_column(header, justify="left" if left else "right", no_wrap=True)

        def gap(share: float | None) -> str:
            if share is None or not bar:
                return formatting.percent(share)
            return f"{_bar(share, bar, ascii_only=ascii_only)} {formatting.percent(share):>5}"

        ends = (
            ("teacher", "ceiling", comparison.teacher, 1.0),
            ("start", "floor", comparison.starting_student, 0.0),
        )
        for model, role, value, share in ends:
            if value is None:
                continue
            cells = {"score": formatting.score(value, digits)}
            if any(arm.gap_closed is not None for arm in comparison.arms):
                cells["gap"] = gap(share)
            label = f"{model} = {role}" if layout.long_names else model
            table.add_row(label, *(cells.get(name, "") for name in layout.columns), style="dim")
        for arm in comparison.arms:
            cells = {
                "trials": formatting.trial_counts(arm, comparison),
                **_best_cells(arm, digits, gap(arm.gap_closed)),
            }
            table.add_row(
                formatting.arm_name(arm) if layout.long_names else arm.name,
                *(Text(cells.get(name, "")) for name in layout.columns),
                style="bold green" if arm.name in comparison.leaders else "",
            )
        return table


def _front_point(point: FrontPoint, digits: int) -> str:
    values = [
        f"{name.replace('_', ' ')} {formatting.objective(name, value, digits)}"
        for name, value in point.values.items()
    ]
    return " · ".join(filter(None, [*values, formatting.settings(point.trial.params)]))


def _best(arm: ArmSummary, *, priced: bool) -> str:
    """Return the best trial's settings; if ``priced``, with its steps and tokens."""
    settings = formatting.best_settings(arm)
    cost = formatting.best_cost(arm)
    if not priced or cost is None:
        return settings
    return f"{settings} · {cost.steps} steps · {formatting.tokens(cost)} tokens"


def _best_cells(arm: ArmSummary, digits: int, gap: str) -> dict[Column, str]:
    if (cost := formatting.best_cost(arm)) is None:
        return {"score": formatting.NOTHING}
    return {
        "settings": formatting.best_settings(arm),
        "score": formatting.score(arm.best_score, digits),
        "difference": formatting.difference(arm.difference, digits),
        "gap": gap,
        "steps": str(cost.steps),
        "tokens": formatting.tokens(cost),
        "seconds": formatting.seconds(cost.device_seconds),
    }


def _bar(share: float, width: int, *, ascii_only: bool) -> str:
    """Draw a bar from the floor to the ceiling; an arrow marks a score beyond either."""
    full, empty, below, above = ("=", "-", "<", ">") if ascii_only else ("━", "─", "◂", "▸")
    filled = round(min(max(share, 0.0), 1.0) * width)
    bar = full * filled + empty * (width - filled)
    # Within rounding of an end, a score is at it.
    if share < -0.005:
        return below + bar[1:]
    return bar[:-1] + above if share > 1.005 else bar
