"""What a preflight finds: one record a fact, for people and for programs."""

from __future__ import annotations

from typing import Literal

from sweeper.analysis.power import Design
from sweeper.analysis.timing import DurationEstimate
from sweeper.records import Record


class Finding(Record):
    """One thing that was looked at."""

    state: Literal["ok", "warning", "error"]
    """An error keeps the study from being run."""
    what: str
    detail: str
    advice: str = ""
    """What to do about it."""
    place: str = ""
    """File, line, column and key of what is to blame, if that is known."""


class Preflight(Record):
    """Everything that is known of a study before anything is trained."""

    findings: tuple[Finding, ...]
    design: Design | None = None
    """What the study can show; None where it makes no claim, or that cannot be known yet."""
    estimate: DurationEstimate | None = None
    """How long the study takes; None where nothing was measured of it."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What keeps the study from being run."""
        return tuple(found for found in self.findings if found.state == "error")
