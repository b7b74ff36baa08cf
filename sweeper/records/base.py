"""What all records have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class Record(BaseModel):
    """A frozen JSON record."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


FailureKind = Literal[
    "out_of_memory", "diverged", "timeout", "stalled", "lost", "bad_input", "full_disk", "bug"
]


class Failure(Record):
    """Why a job did not complete."""

    kind: FailureKind
    message: str
    """One line, for people."""
    key: tuple[str, ...] = ()
    """The key of the study file that is to blame, if one is."""
    remedies: tuple[str, ...] = ()
    """What to try, in the order to try it: each goes on from "Try"."""
    details: str = ""
    """The traceback, or the end of the log."""

    def told(self) -> str:
        """The message, and what to try."""
        if not self.remedies:
            return self.message
        *most, last = self.remedies
        listed = f"{', '.join(most)} or {last}" if most else last
        return f"{self.message.rstrip('.')}. Try {listed}."
