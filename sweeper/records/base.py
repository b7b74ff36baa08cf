"""Base of all records."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class Record(BaseModel):
    """A frozen JSON record."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def left_out_if_none() -> Any:
    """Return the default of a field that a file lacks where it is None, as older files do."""
    return Field(default=None, exclude_if=lambda value: value is None)


def left_out_if_alone() -> Any:
    """Return the default of a number of jobs, 1, which files lack, as older files do."""
    return Field(default=1, exclude_if=lambda count: count == 1)


FailureKind = Literal[
    "out_of_memory",
    "diverged",
    "timeout",
    "stalled",
    "lost",
    "bad_input",
    "full_disk",
    "server",
    "faulty_device",
    "driver",
    "failed_kernel",
    "communication",
    "device_assert",
    "bug",
]

DEVICE_FAULTS: frozenset[FailureKind] = frozenset({"faulty_device", "driver"})
"""Failures that a device or its driver is to blame for, and never the job."""
SUSPICIONS: frozenset[FailureKind] = frozenset({"failed_kernel", "communication"})
"""Failures that a device may be to blame for, or the job: another device shows which."""
OF_DEVICES: frozenset[FailureKind] = DEVICE_FAULTS | SUSPICIONS | {"device_assert"}
"""Failures after which a process must no longer call its device."""


class Failure(Record):
    """Failure of a job: why it did not complete."""

    kind: FailureKind
    message: str
    """One line, for people."""
    phase: str = ""
    """The job's phase; empty in old records."""
    key: tuple[str, ...] = ()
    """The key of the study file that is to blame, if one is."""
    remedies: tuple[str, ...] = ()
    """Remedies in the order to try them: each completes a sentence that begins with "Try"."""
    devices: tuple[str, ...] = Field(default=(), exclude_if=operator.not_)
    """Devices that a fault of a device showed on, by the names that the executor has for them: that
    of the process that failed, or all of a trial's if it is not known which."""
    details: str = ""
    """The traceback, or the end of the log."""

    def told(self) -> str:
        """Return the message, and what to try."""
        return with_remedies(self.message, self.remedies)


def with_remedies(message: str, remedies: Sequence[str]) -> str:
    """Return a message, and what to try."""
    if not remedies:
        return message
    *most, last = remedies
    listed = f"{', '.join(most)} or {last}" if most else last
    return f"{message.rstrip('.')}. Try {listed}."
