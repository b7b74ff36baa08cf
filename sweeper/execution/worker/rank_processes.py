"""The processes of a trial next to its first one, where it trains on several devices.

The first process of the trial forks one for each further device, before it has done anything: they
begin as what the forkserver starts, with the libraries loaded and nothing else done. All are of one
process group, so that whoever ends the trial ends them all. Only the first process writes into the
trial's directory; the others train, and leave a note there of how they ended.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait as wait_for
from pathlib import Path

from sweeper.execution.executor import Spec
from sweeper.foundation.files import write_text_atomically
from sweeper.records import Outcome
from sweeper.records.layout import JobPaths

_FORK = multiprocessing.get_context("fork")
_MOMENT = 1.0
"""Seconds in which those that fail together end."""
_GRACE = 5.0
"""Seconds in which a process notices for certain that its neighbour failed."""


class OtherRanks:
    """Processes next to the first, which owns them.

    To be made before the first process has threads. One that fails or is ended takes the whole
    trial with it: the others would wait for it forever.

    Args:
        spec: The trial, on several devices.
        work: Work of each process; it gets the spec with its own device and rank, and does not
            return.
    """

    def __init__(self, spec: Spec, work: Callable[[Spec], None]) -> None:
        self._paths = JobPaths(Path(spec.place.directory))
        shutil.rmtree(self._paths.ranks, ignore_errors=True)
        self._paths.ranks.mkdir(parents=True)
        self._decided = threading.Lock()
        """Taken, for good, by the thread that decides how the trial ended."""
        self._processes = []
        for rank, device in list(enumerate(spec.place.devices))[1:]:
            place = spec.place.model_copy(update={"rank": rank, "device": device})
            own = spec.model_copy(update={"place": place})
            self._processes.append(_FORK.Process(target=work, args=(own,)))
            self._processes[-1].start()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def watch(self) -> None:
        """End the trial, from now on, with the first of them that fails."""
        self._watcher.start()

    def decide(self, outcome: Outcome) -> None:
        """End the first process with ``outcome``; do not return if that is another's fault."""
        if _is_vague(outcome):
            self._watcher.join(_GRACE)
        self._decided.acquire()
        if outcome.state == "failed":
            self._kill()

    def end(self) -> None:
        """Let none of them, and nothing that they were working with, remain."""
        for process in self._processes:
            process.join(_GRACE)
        self._kill()
        for leftover in self._paths.directory.glob(".trainer.*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _watch(self) -> None:
        running = list(self._processes)
        while running:
            wait_for([process.sentinel for process in running])
            running = [process for process in running if process.is_alive()]
            if any(process.exitcode for process in self._processes):
                self._decided.acquire()
                self._end_the_trial()

    def _end_the_trial(self) -> None:
        """End as the process did that failed first."""
        deadline = time.monotonic() + _MOMENT
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = {rank: process.exitcode for rank, process in enumerate(self._processes, 1)}
        self._kill()
        count = len(self._processes) + 1
        for rank, code in codes.items():
            if code is not None and code < 0:
                name = signal.Signals(-code).name
                print(f"Process {rank + 1} of {count} was ended by {name}.", flush=True)
                # To this very thread, which dies of it here unless the process does not heed it.
                signal.pthread_kill(threading.get_ident(), -code)
                os.kill(os.getpid(), signal.SIGKILL)
        reports = {rank: report for rank in codes if (report := self._report(rank))}
        silent = [code for rank, code in codes.items() if code and rank not in reports]
        found = sorted(reports.values(), key=lambda report: (_is_vague(report), report.finished))
        cause = None if silent and all(map(_is_vague, found)) else found[0]
        if cause is not None:
            write_text_atomically(self._paths.outcome, cause.model_dump_json(indent=1) + "\n")
        self.end()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0 if cause else silent[0])

    def _report(self, rank: int) -> Outcome | None:
        """Return what a process that failed has reported."""
        with suppress(OSError, ValueError):
            report = Outcome.model_validate_json(self._paths.rank(rank).read_bytes())
            return report if report.failure else None
        return None

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _is_vague(outcome: Outcome) -> bool:
    """Return True if another process may be the cause: its end breaks connections to it."""
    return outcome.failure is not None and outcome.failure.kind in ("bug", "communication")
