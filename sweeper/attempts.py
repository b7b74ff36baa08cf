"""Attempts at a trial: what is kept of those that did not finish."""

from __future__ import annotations

import os
import shutil
import time

from sweeper.paths import JobPaths, write_text_atomically
from sweeper.records import Failure, Outcome, TrialSpec

MOST = 3
"""How often a trial is started when its process keeps disappearing."""


def set_aside(files: JobPaths) -> int:
    """Move what an unfinished attempt left behind.

    Returns:
        The number of the attempt to start, from 1.
    """
    root = files.directory / "attempts"
    earlier = len(list(root.iterdir())) if root.is_dir() else 0
    if not files.spec.exists():
        return earlier + 1
    # Without a spec, the last one is a move that was interrupted.
    interrupted = earlier > 0 and not files.attempt(earlier).spec.exists()
    number = earlier if interrupted else earlier + 1
    kept = files.attempt(number)
    kept.directory.mkdir(parents=True, exist_ok=True)
    # The spec goes last: while it stands, an interrupted move is taken up again.
    for name in ("progress", "outcome", "log", "documents", "samples", "lost", "spec"):
        if getattr(files, name).exists():
            os.replace(getattr(files, name), getattr(kept, name))
    for leftover in files.directory.glob(".trainer.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return number + 1


def note_loss(files: JobPaths, reason: str) -> int:
    """Note that the attempt's process disappeared.

    Returns:
        How often that has happened to the trial, in this run of the study and in earlier ones.
    """
    write_text_atomically(files.lost, reason + "\n")
    return 1 + len(list(files.directory.glob("attempts/*/lost")))


def lost(spec: TrialSpec, reason: str, files: JobPaths) -> Outcome:
    """The outcome of a trial whose process keeps disappearing, with the end of its log."""
    log = files.log.read_text(encoding="utf-8", errors="replace") if files.log.exists() else ""
    now = time.time()
    return Outcome(
        state="failed",
        failure=Failure(kind="lost", message=f"lost {MOST} times: {reason}", details=log[-4000:]),
        attempt=spec.attempt,
        started=now,
        finished=now,
        device=spec.place.device,
    )
