"""Findings of ``sweeper check``: one record a fact, for people and for programs."""

from __future__ import annotations

from typing import Literal

from sweeper.analysis.pair import PairSummary
from sweeper.analysis.power import Design
from sweeper.analysis.timing import DurationEstimate
from sweeper.records import Record


class Finding(Record):
    """Result of one check."""

    state: Literal["ok", "warning", "error"]
    """State of what was checked; an error keeps the study from being run."""
    what: str
    detail: str
    advice: str = ""
    """Advice on what to do."""
    place: str = ""
    """File, line, column and key of the cause, if known."""


class Preflight(Record):
    """Findings on a study before anything is trained."""

    findings: tuple[Finding, ...]
    design: Design | None = None
    """Smallest differences that the study can detect; None if not known."""
    estimate: DurationEstimate | None = None
    """Duration of the study; None where nothing was measured."""
    pairs: tuple[PairSummary, ...] = ()
    """Diagnosis of each teacher with the starting student; none where nothing was probed."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that keep the study from being run."""
        return tuple(finding for finding in self.findings if finding.state == "error")
