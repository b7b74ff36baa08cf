"""The report of a study as a folder: ``report.md`` with its plots, for GitHub and other viewers.

One page: the verdict with its table and plot, the search, the lessons, the details, and how to run
the study again. The same records give the same text, whenever and wherever it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sweeper.foundation.files import remove_leftovers, write_bytes_atomically, write_text_atomically
from sweeper.records import archive
from sweeper.reporting.markdown import details, search, verdict
from sweeper.reporting.markdown.pair import pair_sections
from sweeper.reporting.markdown.reproduction import data_sections, reproduction_sections
from sweeper.reporting.markdown.training import training_plots, training_sections
from sweeper.reporting.plots.style import png
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.text import formatting
from sweeper.reporting.text.markdown_escape import inline
from sweeper.reporting.text.outside_code import outside_code
from sweeper.reporting.text.search import unconfirmed

TEXT_NAME = "report.md"
_RETIRED = ("realised.png",)
"""Plots of earlier versions, which are removed from a folder that is written again."""


def write_report(page: ReportData, directory: Path) -> list[Path]:
    """Write the report of a study at any stage; return the written files, ``report.md`` first.

    In ``directory``, the report's own folder, the files of an earlier report are replaced, and its
    plots that have nothing to show any more are removed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    drawn = verdict.plots(page) | search.plots(page)
    drawn |= training_plots(page.training, page.comparison)
    # Plots first, so that a reader of the new text finds them.
    images = []
    for name, figure in {**dict.fromkeys(_RETIRED), **drawn}.items():
        path = directory / name
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            write_bytes_atomically(path, png(figure))
            images.append(path)
    archive.write_records(page.record, directory / archive.NAME)
    text = "\n\n".join(_sections(page, {path.name for path in images})) + "\n"
    write_text_atomically(directory / TEXT_NAME, text)
    return [directory / TEXT_NAME, directory / archive.NAME, *images]


def _sections(page: ReportData, images: set[str]) -> Iterator[str]:
    record, comparison = page.record, page.comparison
    yield f"# {inline(record.study)}"
    yield f"**{inline(page.headline)}**"
    if unsafe := outside_code(record.config):
        parts = (key.partition(" ") for key in unsafe)
        keys = formatting.listed(inline(f"`{name}` {rest}") for name, _, rest in parts)
        yield f"> **Code from outside was allowed to run:** {keys}."
    if page.verdict is not None:
        yield from verdict.tables(page.verdict)
        yield from verdict.tasks(record)
        yield from verdict.conditions(record, page.verdict)
        yield from verdict.plot_sections(images)
    else:
        yield f"> {inline(unconfirmed(record))}"
    yield from pair_sections(page)
    yield from search.sections(page, images)
    yield from training_sections(page.training, images)
    yield "## Details"
    if page.verdict is not None:
        yield from verdict.details(page.verdict)
    yield from details.sections(record, comparison)
    yield from data_sections(record)
    yield from reproduction_sections(record)
