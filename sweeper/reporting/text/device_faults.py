"""Devices that failed in a study, in words."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.records import DeviceFault
from sweeper.reporting.text.formatting import FAILURE_NAMES, listed
from sweeper.reporting.text.terminal_escape import visible

TITLE = "Devices that failed"
EXPLANATION = (
    "Jobs run again where another device may help. The attempts that are lost cost no budget, and"
    " the search learns nothing from them. A device that is set aside gets no more jobs in that"
    " run; the next run begins with all of them."
)
"""What follows from the faults of devices."""


def device_lines(faults: Sequence[DeviceFault]) -> list[str]:
    """Return a line for each device that failed, without the final stop."""
    devices = dict.fromkeys(device for fault in faults for device in fault.devices)
    return [_line(device, [f for f in faults if device in f.devices]) for device in devices]


def _line(device: str, faults: Sequence[DeviceFault]) -> str:
    count = len(faults)
    kinds = dict.fromkeys(FAILURE_NAMES[fault.kind] for fault in faults)
    jobs = dict.fromkeys(fault.job for fault in faults)
    line = f"{device}: {count} fault{'s' * (count != 1)} ({listed(kinds)}) in {listed(jobs)}"
    if aside := sum(device in fault.set_aside for fault in faults):
        line += f"; set aside{f' in {aside} runs' if aside > 1 else ''}"
    return visible(f"{line}. The last: {faults[-1].message.rstrip('.')}")
