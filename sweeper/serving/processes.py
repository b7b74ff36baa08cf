"""Processes that another run may have started, told from later ones with the same id."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

from sweeper.records.base import Record
from sweeper.serving.keeper import birth


class ProcessId(Record):
    """Identity of a process."""

    pid: int
    birth: str | None
    """Start of the process, as ``keeper.birth`` returns it."""


class ProcessHandle:
    """A process that is alive, whose id no other process can take over while it is held (Linux).

    Args:
        descriptor: Process file descriptor, which the handle owns.
        pid: Id of the process.
    """

    def __init__(self, descriptor: int, pid: int) -> None:
        self._descriptor = descriptor
        self.pid = pid

    @classmethod
    def open(cls, process: ProcessId) -> ProcessHandle | None:
        """Return a handle of ``process``; None if it has ended, whatever has its id now."""
        try:
            descriptor = os.pidfd_open(process.pid)
        except OSError:
            return None
        handle = cls(descriptor, process.pid)
        # The descriptor came first: what is compared is what it refers to.
        if process.birth is None or birth(process.pid) != process.birth or not handle.is_alive():
            handle.close()
            return None
        return handle

    def is_alive(self) -> bool:
        """Return True until the process has ended."""
        return not self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Wait for the end, so many seconds at most; return True if it has come."""
        return bool(select.select([self._descriptor], [], [], seconds)[0])

    def signal(self, number: signal.Signals) -> None:
        """Signal the process; nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def kill_group(self) -> None:
        """Kill the process group that the process leads."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._descriptor)
