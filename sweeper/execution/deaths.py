"""Why a job's process ended without an outcome, as far as its devices are concerned.

A process that the driver ends, or that a watchdog of NCCL aborts, writes no outcome. What it
printed, and what the driver says of its devices, tell such an end from others.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from sweeper.execution.devices import driver_answer
from sweeper.execution.executor import Spec
from sweeper.execution.fault_texts import DeviceFault, failed_assertion, fault_of_text
from sweeper.execution.worker.process import DeviceShare, visible_gpu
from sweeper.foundation.secrets import redact_credentials, secrets_in, secrets_of_environment
from sweeper.records import Failure, FailureKind, TrialSpec
from sweeper.records.layout import JobPaths
from sweeper.records.remedies import device_remedies, divergence_remedies

_LAST_BYTES = 16 * 1024
"""Bytes at the end of the log that are about the end of the process."""
_DIED = re.compile(r"^Process (\d+) of \d+ was ended by", re.MULTILINE)
"""Line of a trial on several devices that names the process that died, from 1."""


def fault_of_death(
    spec: Spec, share: DeviceShare, code: int | None, reason: str
) -> tuple[str, Failure | None]:
    """Return how a process ended, with what its driver says, and a device's fault if it is one.

    Args:
        spec: The job, on the machine where it ran.
        share: Share of the machine that it had.
        code: Exit code of its process; negative: the signal that ended it.
        reason: How the process ended, in words.
    """
    devices = spec.place.devices or (spec.place.device,)
    if not devices[0].startswith("cuda"):
        return reason, None
    names = share.names(spec.place)
    answers = {
        name: driver_answer(gpu) for name, gpu in zip(names, _gpus(share, devices), strict=False)
    }
    unreachable = {name: answer for name, answer in answers.items() if answer}
    if unreachable:
        said = "; ".join(f"of {name} nvidia-smi says: {text}" for name, text in unreachable.items())
        fault = fault_of_text(said)
        kind: FailureKind = (
            "driver" if fault is not None and fault.kind == "driver" else "faulty_device"
        )
        reason = f"{reason}; {said}"
        return reason, Failure(
            kind=kind,
            message=reason,
            devices=tuple(unreachable),
            remedies=device_remedies(kind),
        )
    if any(answer == "" for answer in answers.values()):
        reason = f"{reason}; nvidia-smi still reaches {', '.join(names)}"
    log = _end_of_log(spec)
    printed = _printed(log, code)
    if printed is None:
        return reason, None
    if printed.kind != "communication" and (died := _DIED.search(log)):
        names = names[int(died[1]) - 1 : int(died[1])]
    line = redact_credentials(printed.line, secrets_in(spec) | secrets_of_environment())
    return reason, Failure(
        kind=printed.kind,
        message=f"{line} ({reason})",
        devices=names,
        remedies=_remedies(printed.kind, spec),
    )


def _gpus(share: DeviceShare, devices: Sequence[str]) -> list[str]:
    """Return the names of the devices for ``nvidia-smi``."""
    if share.visible is not None:
        return share.visible.split(",")
    indices = (device.partition(":")[2] for device in devices)
    return [visible_gpu(int(index or 0)) for index in indices]


def _end_of_log(spec: Spec) -> str:
    log = JobPaths(Path(spec.place.directory)).log
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _printed(log: str, code: int | None) -> DeviceFault | None:
    """Return the fault that a process printed before it aborted, or ended by itself."""
    if code is None or (code < 0 and code != -signal.SIGABRT):
        return None
    return failed_assertion(log) or fault_of_text(log)


def _remedies(kind: FailureKind, spec: Spec) -> tuple[str, ...]:
    if kind == "diverged":
        return divergence_remedies(spec) if isinstance(spec, TrialSpec) else ()
    return device_remedies(kind)
