"""Clocks that measure the seconds of work where it is done, on the host or on a GPU."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Clock of the place where a training's work is done.

    Work for a GPU is queued, so that the moment at which it is done comes later. A moment here is
    where the queue stood; no method but ``seconds`` waits for it.
    """

    def mark(self) -> Any:
        """Return the moment at which all work queued so far is done."""

    def has_reached(self, moment: Any) -> bool:
        """Return whether that moment has passed."""

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds between two moments, once both have passed."""


class HostClock:
    """The host's clock: where work is done as it is called, every moment passes at once."""

    def mark(self) -> float:
        """Return the time."""
        return time.perf_counter()

    def has_reached(self, moment: float) -> bool:
        """Return True."""
        return True

    def seconds(self, start: float, end: float) -> float:
        """Return the difference."""
        return end - start


class EventClock:
    """A GPU's clock: events in the stream that the training computes in.

    Args:
        device: The CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> Any:
        """Put an event into the queue."""
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def has_reached(self, moment: Any) -> bool:
        """Return whether the device is past the event."""
        return bool(moment.query())

    def seconds(self, start: Any, end: Any) -> float:
        """Wait for the later event, and return the seconds between the two."""
        if not self.has_reached(end):
            end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def clock_of(device: str) -> Clock:
    """Return the clock of a job's device, such as ``cpu`` or ``cuda:0``."""
    return EventClock(torch.device(device)) if device.startswith("cuda") else HostClock()
