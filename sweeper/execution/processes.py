"""A job as a process on this machine, started from a forkserver that has the libraries loaded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

from sweeper.execution.deaths import fault_of_death
from sweeper.execution.executor import Finished, Spec, without_room
from sweeper.execution.worker import process
from sweeper.foundation.errors import ConfigError, Problem
from sweeper.records import Outcome
from sweeper.records.layout import JobPaths
from sweeper.records.outcome_files import read_outcome

_CONTEXT = multiprocessing.get_context("forkserver")


def start_forkserver() -> None:
    """Start the forkserver, which imports the libraries while the caller continues.

    Ctrl-C in the terminal is not for it, not even while it imports: what a process ignores is
    ignored by what it starts. The working directory is not on its import path: a user's own
    ``peft.py`` is none of ours.
    """
    _CONTEXT.set_forkserver_preload(["sweeper.execution.worker.preload"])
    if threading.current_thread() is not threading.main_thread():
        _ensure_running()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _ensure_running()
    finally:
        # None: it was not Python that had set it.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _ensure_running() -> None:
    before = {name: os.environ.get(name) for name in ("PYTHONSAFEPATH", "PYTHONPATH")}
    os.environ["PYTHONSAFEPATH"] = "1"
    # An empty part of it means the working directory.
    parts = [part for part in (before["PYTHONPATH"] or "").split(os.pathsep) if part]
    os.environ["PYTHONPATH"] = os.pathsep.join(parts)
    try:
        ensure_running()
    except OSError as error:
        if "too long" not in str(error):
            raise
        place = tempfile.gettempdir()
        message = f"expected a shorter TMPDIR, in which sockets are made, found {place}"
        raise ConfigError([Problem(source="TMPDIR", message=message)]) from None
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def signals_waiting() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM wait for the end of the block, which may start jobs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before: dict[signal.Signals, Any] = {}
    try:
        # Were they blocked here, another thread would take them, and their handlers run here still.
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda found, _: caught.append(found))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for found in caught:
            signal.raise_signal(found)


class JobProcess:
    """One job's process, with a process group of its own: a crash or a kill stays in it."""

    def __init__(
        self,
        spec: Spec,
        share: process.DeviceShare = process.WHOLE,
        run: Callable[[Spec], Outcome] | None = None,
    ) -> None:
        self.spec = spec
        self._share = share
        self._signalled = False
        name = Path(spec.place.directory).name
        self._process = _CONTEXT.Process(target=process.main, args=(spec, share, run), name=name)
        self._process.start()

    @property
    def sentinel(self) -> int:
        """Handle that ``multiprocessing.connection.wait`` waits for."""
        return self._process.sentinel

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Signal the process and whatever it started; it may be gone, or not yet a group."""
        self._signalled = True
        if self._process.pid is None:
            return
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            if self._process.is_alive():
                os.kill(self._process.pid, number)

    def end(self, seconds: float) -> None:
        """Wait for the end, so many seconds at most; then enforce it."""
        self._process.join(seconds)
        if self._process.is_alive():
            self.signal(signal.SIGKILL)
            self._process.join()

    def collect(self) -> Finished:
        """Wait for the end; what the job reported, or how it ended."""
        self._process.join()
        code = self._process.exitcode
        paths = JobPaths(Path(self.spec.place.directory))
        outcome = read_outcome(paths)
        if outcome is None and code == process.FULL_DISK:
            outcome = without_room(paths)
        if code is not None and code < 0:
            reason = f"its process was ended by {signal.Signals(-code).name}"
        else:
            reason = f"its process ended with exit code {code} and no outcome"
        self._process.close()
        fault = None
        if outcome is None and not self._signalled:
            reason, fault = fault_of_death(self.spec, self._share, code, reason)
        return Finished(self.spec, outcome, reason, fault)
