"""The report of a study in the terminal, shorter than ``report.md``."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from sweeper.analysis.by_task import by_task
from sweeper.analysis.fairness import matched_conditions
from sweeper.reporting.console import bulleted, definitions, notice, part, show
from sweeper.reporting.markdown.importance import search_view
from sweeper.reporting.markdown.pair import pair_view
from sweeper.reporting.markdown.reproduction import short_facts
from sweeper.reporting.markdown.training import training_view
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.tables import tasks
from sweeper.reporting.tables.comparison import ComparisonView
from sweeper.reporting.tables.devices import failed_devices_part
from sweeper.reporting.tables.fairness import TITLE, conditions_note, conditions_view
from sweeper.reporting.tables.servers import served_part
from sweeper.reporting.tables.verdict import VerdictView
from sweeper.reporting.text.search import unconfirmed


def show_study(page: ReportData, console: Console) -> None:
    """Print the verdict if there is one, the search, its lessons, and how to reproduce it."""
    record, verdict = page.record, page.verdict
    notice(record, console)
    if verdict is not None:
        show(VerdictView(verdict), console)
        if results := by_task(record):
            show(part(tasks.TITLE, tasks.TaskView(results)), console)
        if rows := matched_conditions(record, verdict.claimed):
            note = conditions_note(rows)
            notes = [bulleted([note])] if note else []
            show(part(TITLE, conditions_view(rows), *notes), console)
        show(part("The search"), console)
    show(ComparisonView(page.comparison), console)
    if record.servers:
        show(served_part(record.servers), console)
    if record.device_faults:
        show(failed_devices_part(record.device_faults), console)
    if lacking := unconfirmed(record):
        console.print()
        show(Text(lacking), console)
    lessons = (search_view(page.comparison, page.search), training_view(page.training))
    for view in (*pair_view(page), *lessons):
        if view is not None:
            show(view, console)
    facts = short_facts(record).items()
    rows_of_facts = definitions((name, Text(text, overflow="fold")) for name, text in facts)
    show(part("Reproduction", rows_of_facts), console)
