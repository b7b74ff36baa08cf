"""Devices that failed, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from sweeper.records import DeviceFault
from sweeper.reporting.console import bulleted, part
from sweeper.reporting.text.device_faults import TITLE, device_lines


def failed_devices_part(faults: Sequence[DeviceFault]) -> RenderableType:
    """Return a line for each device under a title."""
    return part(TITLE, bulleted(device_lines(faults), style="yellow"))
