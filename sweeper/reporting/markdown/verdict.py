"""The sections of a report about the verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from matplotlib.figure import Figure

from sweeper.analysis.by_task import by_task
from sweeper.analysis.fairness import matched_conditions
from sweeper.analysis.verdict_records import PairVerdict, Verdict
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.plots.verdict import verdict_plot
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.tables import fairness
from sweeper.reporting.tables.grids import Grid
from sweeper.reporting.tables.tasks import TITLE, task_grid, task_notes
from sweeper.reporting.tables.verdict import (
    difference,
    measures,
    pairs_grid,
    reference,
    title,
    whole_grid,
)
from sweeper.reporting.text import formatting
from sweeper.reporting.text.markdown_escape import cell, inline, table
from sweeper.reporting.text.verdict import explanations, notes, sentence

PLOT = "verdict.png"


def plots(page: ReportData) -> dict[str, Figure | None]:
    """Draw the verdict's plot; None before there is a verdict."""
    return {PLOT: verdict_plot(page.verdict, page.comparison) if page.verdict else None}


def tables(verdict: Verdict) -> Iterator[str]:
    """Yield the winners on the test suite and their differences, by measure of cost."""
    for at in measures(verdict):
        yield f"## {inline(title(verdict, at))}"
        yield _table(whole_grid(verdict, at), reference(verdict, at))
        if reference(verdict, at) is None:
            yield _table(pairs_grid(verdict, at))
    yield "\n".join(f"- {inline(note)}" for note in (*explanations(verdict), *notes(verdict)))


def tasks(record: StudyRecord) -> Iterator[str]:
    """Yield the winners' means by task if the suite has several."""
    if results := by_task(record):
        yield f"### {TITLE}"
        yield _table(task_grid(results))
        yield "\n".join(f"- {inline(note)}" for note in task_notes(results))


def conditions(record: StudyRecord, verdict: Verdict) -> Iterator[str]:
    """Yield which conditions the confirmation runs of all arms shared."""
    if rows := matched_conditions(record, verdict.claimed):
        yield f"### {fairness.TITLE}"
        cells = [list(map(cell, row)) for row in fairness.condition_cells(rows)]
        yield table(fairness.COLUMNS, cells, left={0, 1, 2})
        if note := fairness.conditions_note(rows):
            yield inline(note)


def plot_sections(images: Collection[str]) -> Iterator[str]:
    """Yield the plot of the verdict with its explanation."""
    if PLOT in images:
        yield f"![The verdict]({PLOT})"
        yield (
            "Left: each winner's mean on the test suite. Right: the differences between them. An"
            " interval that excludes 0 shows more than chance; an interval within the shaded margin"
            " shows a difference too small to matter."
        )


def details(verdict: Verdict) -> Iterator[str]:
    """Yield each comparison in a sentence to quote, and all its statistics."""
    if not verdict.pairs:
        return
    yield "### The comparisons on the test suite"
    counted = "1 comparison" if len(verdict.pairs) == 1 else f"{len(verdict.pairs)} comparisons"
    yield f"<details>\n<summary>{counted}</summary>"
    yield "\n".join(
        f"- At equal {pair.at.replace('_', ' ')}: {inline(sentence(pair, verdict.margin))}"
        for pair in verdict.pairs
    )
    header = ["comparison", "at equal", "difference [95 %]", "standard error", "effect (d)", "p"]
    header += ["p adjusted", "p of equivalence"]
    yield table(header, [_computed(pair) for pair in verdict.pairs], left={0, 1})
    yield "</details>"


def _computed(pair: PairVerdict) -> list[str]:
    numbers = (pair.p, pair.p_adjusted, pair.p_equivalence)
    return [
        cell(f"{pair.arm} − {pair.against}"),
        pair.at.replace("_", " "),
        difference(pair),
        f"{pair.stderr:.4f}",
        formatting.NOTHING if pair.effect is None else f"{pair.effect:+.2f}",
        *(formatting.NOTHING if p is None else cell(formatting.p_number(p)) for p in numbers),
    ]


def _table(grid: Grid, bold: str | None = None) -> str:
    rows = []
    for number, row in enumerate(grid.rows):
        name, *cells = map(cell, row)
        if number < grid.ends:
            name = f"*{name}*"
        elif bold is not None and row[0].rpartition(" #")[0] == bold:
            name = f"**{name}**"
        rows.append([name, *cells])
    # A mean stays on one line with its interval.
    rows = [[text.replace(" ", "\u00a0") if "[" in text else text for text in row] for row in rows]
    left = {0, *(index for index, name in enumerate(grid.header) if name in grid.left)}
    return table([cell(name) for name in grid.header], rows, left)
