"""What a check finds: one record a fact, for people and for programs."""

from __future__ import annotations

from typing import Literal

from sweeper.records import Record


class Finding(Record):
    """One thing that was looked at."""

    state: Literal["ok", "warning", "error"]
    """An error keeps the study from being run."""
    what: str
    detail: str
    advice: str = ""
    """What to do about it."""
