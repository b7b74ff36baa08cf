"""What a report has beside the verdict and the search: lessons, each from a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from rich.console import RenderableType

from sweeper.analysis.comparison import Comparison
from sweeper.study_record import StudyRecord


@dataclass(frozen=True)
class Part:
    """One matter of a report, in each form that a report has."""

    name: str
    """Its key in ``sweeper report --json``."""
    plots: Callable[[StudyRecord, Comparison], Mapping[str, Figure | None]]
    """By file name; None where there is nothing to show, so that an old file is removed."""
    sections: Callable[[StudyRecord, Comparison, Collection[str]], Iterable[str]]
    """Blocks of Markdown; told the file names of the plots that were written."""
    view: Callable[[StudyRecord, Comparison], RenderableType | None]
    """For the terminal; None where there is nothing to say."""
    as_json: Callable[[StudyRecord, Comparison], Any]
    """Plain JSON values; None where there is nothing to say."""


PARTS: tuple[Part, ...] = ()
"""In their order in the report, after the search and before the details."""
