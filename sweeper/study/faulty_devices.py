"""The devices of a run on which jobs failed: which jobs try another, and which get no more jobs."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from sweeper.execution.executor import Executor, Spec
from sweeper.foundation.errors import NoDeviceError
from sweeper.foundation.files import append_json_line, read_json_lines
from sweeper.records import DEVICE_FAULTS, SUSPICIONS, DeviceFault, Failure, TrialSpec
from sweeper.records.layout import StudyPaths

MOST_FAULTS = 2
"""Faults after which a device gets no more jobs in a run."""
MOST_SUSPICIONS = 3
"""Times that a job may fail on devices that may be to blame, before it is itself."""


def failed_apart(failures: list[Failure]) -> bool:
    """Return whether a job failed in the same manner on devices that have nothing in common.

    Then the job is to blame, and no device.
    """
    places = [set(failure.devices) for failure in failures if failure.kind in SUSPICIONS]
    return any(
        one and other and one.isdisjoint(other)
        for at, one in enumerate(places)
        for other in places[:at]
    )


def may_be_the_device(failures: list[Failure]) -> bool:
    """Return whether the last failure of a job may be its device's fault, after those before."""
    if failures[-1].kind in DEVICE_FAULTS:
        return True
    suspicions = [failure for failure in failures if failure.kind in SUSPICIONS]
    return len(suspicions) < MOST_SUSPICIONS and not failed_apart(suspicions)


class FaultyDevices:
    """Keeps count of the faults of devices in one run of a study.

    A fault of the device itself counts each time, but once for all jobs that ran on it then: an
    uncorrectable error of its memory ends every process there. A kernel or a connection that failed
    may be the job's own fault: it counts once a job, and no longer when the job fails on other
    devices, too, or fails too often. A driver that does not fit fails every job, so its devices are
    set aside at once. The next run begins without any of this.

    Args:
        executor: Executor of the jobs, which sets devices aside.
        log: File to which every fault is appended, as a ``DeviceFault``.
    """

    def __init__(self, executor: Executor, log: Path) -> None:
        self._executor = executor
        self._log = log
        self._certain: Counter[str] = Counter()
        """Faults of each device itself."""
        self._counted: dict[str, float] = {}
        """Time of the last of these that counted, by device, in seconds since the epoch."""
        self._suspected: dict[str, set[str]] = {}
        """Jobs that failed on each device, perhaps through it, by their directories."""
        self._failures: dict[str, list[Failure]] = {}
        """Failures of each job through devices, by its directory."""
        self._aside: frozenset[str] = frozenset()
        self._last = ""
        """Last fault, in words."""

    def note(self, spec: Spec, failure: Failure, started: float) -> list[str]:
        """Take note of a job that failed through its device, and return what follows, in words.

        Args:
            spec: The job.
            failure: How it failed.
            started: Start of the job, in seconds since the epoch.
        """
        job, before, now = spec.place.directory, self._aside, time.time()
        self._last = failure.told()
        self._failures.setdefault(job, []).append(failure)
        for device in failure.devices:
            if failure.kind == "driver":
                self._certain[device] += MOST_FAULTS
            elif failure.kind in DEVICE_FAULTS:
                if started >= self._counted.get(device, 0.0):
                    self._certain[device] += 1
                    self._counted[device] = now
            else:
                self._suspected.setdefault(device, set()).add(job)
        cleared: list[str] = []
        if not may_be_the_device(self._failures[job]):
            cleared = [device for device, jobs in self._suspected.items() if job in jobs]
            for device in cleared:
                self._suspected[device].discard(job)
        self._aside = frozenset(
            device
            for device in {*self._certain, *self._suspected}
            if self._faults(device) >= MOST_FAULTS
        )
        if self._aside != before:
            self._executor.set_aside(self._aside)
        added, returned = sorted(self._aside - before), sorted(before - self._aside)
        fault = DeviceFault(
            time=now,
            job=job_name(spec),
            attempt=spec.attempt,
            kind=failure.kind,
            devices=failure.devices,
            message=failure.message,
            set_aside=tuple(added),
            cleared=tuple(sorted(cleared)),
        )
        append_json_line(self._log, fault.model_dump(mode="json"))
        lines = [
            f"{device} is set aside and gets no more jobs in this run, after {self._told(device)}:"
            f" {failure.message}"
            for device in added
        ]
        return lines + [
            f"{device} is used again: {job_name(spec)} failed too often to blame the device"
            for device in returned
        ]

    def avoided(self, directory: str | Path) -> frozenset[str]:
        """Return the devices on which the job of a directory failed in this run."""
        failures = self._failures.get(str(directory), ())
        return frozenset(device for failure in failures for device in failure.devices)

    def failures(self, spec: Spec) -> list[Failure]:
        """Return how a job failed through its devices in this run."""
        return list(self._failures.get(spec.place.directory, ()))

    def may_start(self, directory: str | Path) -> bool:
        """Return whether something is free for the job of a directory."""
        avoid = self.avoided(directory)
        return not avoid or self._executor.free(avoid) > 0

    def check(self) -> None:
        """Raise an error if no device is left.

        Raises:
            NoDeviceError: All are set aside.
        """
        if self._aside and self._executor.exhausted():
            raise NoDeviceError(sorted(self._aside), self._last)

    def _faults(self, device: str) -> int:
        return self._certain[device] + len(self._suspected.get(device, ()))

    def _told(self, device: str) -> str:
        jobs = [
            directory
            for directory, failures in self._failures.items()
            if any(device in failure.devices for failure in failures)
        ]
        times = sum(
            device in failure.devices for found in self._failures.values() for failure in found
        )
        return f"{times} fault{'s' * (times != 1)} in {len(jobs)} job{'s' * (len(jobs) != 1)}"


def read_device_faults(paths: StudyPaths) -> tuple[DeviceFault, ...]:
    """Read the faults of devices in all runs of a study, as far as the file can be read."""
    rows, _ = read_json_lines(paths.device_faults)
    found = []
    for row in rows:
        with suppress(ValidationError):
            found.append(DeviceFault.model_validate(row))
    return tuple(found)


def failed_on(failure: Failure) -> str:
    """Return how a job failed that tries another device."""
    where = f" on {', '.join(failure.devices)}" if failure.devices else ""
    return f"failed{where} ({failure.message}); it runs again, on another device if there is one"


def job_name(spec: Spec) -> str:
    """Return the name of a job, for people."""
    if not isinstance(spec, TrialSpec):
        return f"the preparation ({spec.step})"
    kind = "" if spec.final is None else "confirmation run "
    return f"{kind}{spec.arm} #{spec.number}"
