"""The record of a device's fault, as a study keeps it."""

from __future__ import annotations

from sweeper.records.base import FailureKind, Record


class DeviceFault(Record):
    """Line of a study's ``device_faults.jsonl``: a job failed because of its device, perhaps."""

    time: float
    """Seconds since the epoch."""
    job: str
    """Name of the job, for people: ``gkd #3``."""
    attempt: int = 1
    """Number of the job's attempt."""
    kind: FailureKind
    devices: tuple[str, ...]
    """Devices that the fault showed on, as in ``Failure``."""
    message: str
    set_aside: tuple[str, ...] = ()
    """Devices that got no more jobs from here on, until the end of that run."""
    cleared: tuple[str, ...] = ()
    """Devices that this fault speaks for: the job failed on others in the same way."""
