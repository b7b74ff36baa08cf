"""Ctrl-C and SIGTERM: how a user stops a study."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Interrupted(BaseException):
    """The user stopped the study; the same command resumes it."""


@dataclass
class StopRequest:
    """How urgently the user wants the study to stop: 0 not, 1 after running trials, 2 now."""

    level: int = 0


@contextmanager
def listening(message: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn Ctrl-C (once: after the running trials; twice: now) and SIGTERM (now) into a request."""
    stop = StopRequest()

    def interrupt(number: int, frame: FrameType | None) -> None:
        stop.level = 2 if number == signal.SIGTERM else min(stop.level + 1, 2)
        if stop.level == 1:
            message("Stopping after the running trials; Ctrl-C again stops now.")

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
