"""What the terminal shows of a study that has ended."""

from __future__ import annotations

from rich.console import Console

from sweeper.analysis.comparison import compare
from sweeper.analysis.verdict import verdict_of
from sweeper.reporting.comparison_table import comparison_view
from sweeper.reporting.console import notice, show
from sweeper.reporting.verdict_table import verdict_view
from sweeper.study_record import StudyRecord


def show_study(record: StudyRecord, console: Console) -> None:
    """Print the verdict, if winners were scored on the test suite, and the comparison."""
    notice(record, console)
    comparison = compare(record)
    verdict = verdict_of(record, comparison.best_gkd)
    if verdict is not None:
        show(verdict_view(verdict), console)
        console.print()
    show(comparison_view(comparison), console)
