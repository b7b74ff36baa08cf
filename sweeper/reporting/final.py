"""What the terminal shows of a study that has ended: the page of its report, in short."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from sweeper.analysis.comparison import compare
from sweeper.analysis.footing import equal_footing
from sweeper.analysis.verdict import verdict_of
from sweeper.reporting import wording
from sweeper.reporting.comparison_table import comparison_view
from sweeper.reporting.console import definitions, heading, notice, show
from sweeper.reporting.footing_table import TITLE, footing_view
from sweeper.reporting.parts import PARTS, Part
from sweeper.reporting.reproduction import short_facts
from sweeper.reporting.verdict_table import verdict_view
from sweeper.study_record import StudyRecord


def show_study(record: StudyRecord, console: Console, parts: Sequence[Part] = PARTS) -> None:
    """Print the verdict, if winners were scored on the test suite, the search, and the rest."""
    notice(record, console)
    comparison = compare(record)
    verdict = verdict_of(record, comparison.best_gkd)
    if verdict is not None:
        show(verdict_view(verdict), console)
        if rows := equal_footing(record, verdict.claimed):
            console.print()
            show(heading(TITLE), console)
            show(footing_view(rows), console)
        console.print()
        show(heading("The search"), console)
    show(comparison_view(comparison), console)
    if lacking := wording.unconfirmed(record):
        console.print()
        show(Text(lacking), console)
    for part in parts:
        view = part.view(record, comparison)
        if view is not None:
            console.print()
            show(view, console)
    console.print()
    show(heading("Reproduction"), console)
    show(_reproduction(record), console)


def _reproduction(record: StudyRecord) -> RenderableType:
    facts = short_facts(record)
    return definitions((name, Text(text, overflow="fold")) for name, text in facts.items())
