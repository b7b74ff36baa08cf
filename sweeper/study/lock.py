"""The lock of a study: one process coordinates it at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from sweeper.foundation.errors import StudyBusyError
from sweeper.foundation.files import remove_leftovers, write_text_atomically
from sweeper.records.layout import StudyPaths


@contextmanager
def hold(paths: StudyPaths) -> Iterator[None]:
    """Hold the study, so that only one process coordinates it; released when the process ends.

    Raises:
        StudyBusyError: Another process holds it.
    """
    paths.check_tree()
    paths.directory.mkdir(parents=True, exist_ok=True)
    note = paths.directory / "holder"
    try:
        lock = FileLock(paths.lock).acquire(timeout=0)
    except Timeout:
        holder = note.read_text(encoding="utf-8").strip() if note.exists() else ""
        raise StudyBusyError(
            f"The study {paths.study!r} is already being run by {holder or 'another process'}."
        ) from None
    with lock:
        write_text_atomically(note, f"process {os.getpid()} on {os.uname().nodename}\n")
        try:
            yield
        finally:
            # All jobs have ended, those of an earlier coordinator that was killed as well.
            remove_leftovers(paths.directory)
