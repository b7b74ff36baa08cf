"""Trials of three processes that come to different ends, without the libraries that train.

Run as a program, which forks while it has no threads: prints by name how each trial ended, as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from sweeper.execution.worker import rank_processes
from sweeper.execution.worker.process import FAILED, FULL_DISK
from sweeper.execution.worker.rank_processes import OtherRanks
from sweeper.foundation.files import write_text_atomically
from sweeper.records import Failure, FailureKind, Outcome, Record, Resources
from sweeper.records.layout import JobPaths
from sweeper.records.outcome_files import read_outcome

ENDS = (
    "complete",
    "first out of memory",
    "first has a bug",
    "second out of memory",
    "second without its device",
    "second killed",
    "second without room",
    "first killed",
)


class Spec(Record):
    """As much of a trial's as is needed here."""

    place: Resources


def run(end: str, directory: Path) -> dict[str, Any]:
    """Let a trial end so; its exit code, its outcome, its log, and what is left of it."""
    directory.mkdir()
    connection = os.pipe()
    first = multiprocessing.get_context("fork").Process(
        target=_first, args=(end, directory, connection)
    )
    first.start()
    for descriptor in connection:
        os.close(descriptor)
    first.join()
    outcome = read_outcome(JobPaths(directory))
    failure = outcome.failure if outcome else None
    while processes := _processes_in(directory):
        time.sleep(0.01)
    return {
        "code": first.exitcode,
        "state": outcome.state if outcome else None,
        "failure": [failure.kind, failure.message] if failure else None,
        "log": (directory / "log.txt").read_text(),
        "left": [*processes, *map(str, directory.glob(".trainer.*"))],
    }


def _first(end: str, directory: Path, connection: tuple[int, int]) -> None:
    os.setsid()
    log = os.open(directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    place = Resources(directory=str(directory), device="cpu", devices=("cpu",) * 3, threads=1)
    others = OtherRanks(Spec(place=place), partial(_other, end, connection))  # type: ignore[arg-type]
    others.watch()
    if end == "first killed":
        os.kill(os.getpid(), signal.SIGKILL)
    kinds: dict[str, FailureKind] = {
        "first out of memory": "out_of_memory",
        "first has a bug": "bug",
    }
    if end.startswith("second"):
        _wait_for_its_end(connection)
        # What it sees is that its connection to the second is gone.
        outcome = _outcome(0, "communication" if end == "second without its device" else "bug")
    else:
        outcome = _outcome(0, kinds.get(end))
    others.decide(outcome)
    write_text_atomically(JobPaths(directory).outcome, outcome.model_dump_json())
    others.end()
    os._exit(0)


def _other(end: str, connection: tuple[int, int], spec: Spec) -> None:
    """As the worker does it, end with the first process; and in each case as its name says."""
    parent, rank = multiprocessing.parent_process(), spec.place.rank
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    if end == "complete":
        os._exit(0)
    if not end.startswith("second"):
        signal.pause()
    if rank == 2:
        # What it sees, and reports, is the end of the second.
        _wait_for_its_end(connection)
        _report(spec, "bug")
    if end == "second killed":
        os.kill(os.getpid(), signal.SIGSEGV)
    if end == "second without room":
        os._exit(FULL_DISK)
    _report(spec, "faulty_device" if end == "second without its device" else "out_of_memory")


def _wait_for_its_end(connection: tuple[int, int]) -> None:
    """Wait until only the others hold the connection, which the second process never closes."""
    os.close(connection[1])
    os.read(connection[0], 1)


def _report(spec: Spec, kind: FailureKind) -> None:
    files, rank = JobPaths(Path(spec.place.directory)), spec.place.rank
    write_text_atomically(files.rank(rank), _outcome(rank, kind).model_dump_json())
    os._exit(FAILED)


def _outcome(rank: int, kind: FailureKind | None) -> Outcome:
    failure = Failure(kind=kind, message=f"in process {rank}") if kind else None
    state: Any = "failed" if kind else "completed"
    return Outcome(state=state, failure=failure, started=0.0, finished=time.time())


def _processes_in(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "fd/1") == str(directory / "log.txt"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


if __name__ == "__main__":
    # Nobody here takes as long to end as one with a GPU.
    rank_processes._GRACE = 0.5
    root = Path(sys.argv[1]).resolve()
    print(json.dumps({end: run(end, root / end) for end in ENDS}))
