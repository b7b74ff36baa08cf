"""Retries of a trial: what is kept of attempts that did not finish, and which trials run again."""

from __future__ import annotations

import json
import os
import shutil
import time

from sweeper.config.settings import MethodSettings
from sweeper.foundation.files import read_json_lines, write_text_atomically
from sweeper.foundation.secrets import redact_credentials
from sweeper.records import (
    DEVICE_FAULTS,
    SUSPICIONS,
    Cost,
    Failure,
    FailureKind,
    Outcome,
    TrialSpec,
)
from sweeper.records.layout import JobPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.records.remedies import helps_training
from sweeper.study.faulty_devices import may_be_the_device

MOST = 3
"""Attempts of a trial whose process keeps disappearing."""

UNSPENT: frozenset[FailureKind] = frozenset({"bad_input", "full_disk", "server"})
"""Failures that stop the study: once their cause is fixed, the same trial runs again."""
ELSEWHERE: frozenset[FailureKind] = DEVICE_FAULTS | SUSPICIONS
"""Failures after which a job may run again on another device."""


def archive_attempt(files: JobPaths) -> int:
    """Move what an unfinished attempt left behind; return the next attempt's number, from 1."""
    root = files.directory / "attempts"
    earlier = len(list(root.iterdir())) if root.is_dir() else 0
    # From here on the trial is no longer done.
    files.recorded.unlink(missing_ok=True)
    if not files.spec.exists():
        files.outcome.unlink(missing_ok=True)
        return earlier + 1
    # Without a spec, the last one is a move that was interrupted.
    interrupted = earlier > 0 and not files.attempt(earlier).spec.exists()
    number = earlier if interrupted else earlier + 1
    kept = files.attempt(number)
    kept.directory.mkdir(parents=True, exist_ok=True)
    # The spec goes last: while it stands, an interrupted move is resumed.
    for name in (
        "progress",
        "outcome",
        "log",
        "documents",
        "test_documents",
        "samples",
        "prune_decision",
        "lost",
        "spec",
    ):
        if getattr(files, name).exists():
            os.replace(getattr(files, name), getattr(kept, name))
    for leftover in files.directory.glob(".trainer.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return number + 1


def is_over(outcome: Outcome | None, files: JobPaths) -> bool:
    """Return whether a trial has ended for good and can be read; otherwise it runs again."""
    if outcome is None:
        return False
    if outcome.failure is not None and outcome.failure.kind in UNSPENT | DEVICE_FAULTS:
        return False
    try:
        json.loads(files.spec.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def discard_checkpoint(files: JobPaths) -> None:
    """Remove the checkpoint of a trial that has ended."""
    shutil.rmtree(files.checkpoint, ignore_errors=True)


def note_loss(files: JobPaths, reason: str) -> int:
    """Record that the attempt's process disappeared; return how often that happened so far."""
    write_text_atomically(files.lost, reason + "\n")
    return _losses(files)


def conclude(
    spec: TrialSpec,
    files: JobPaths,
    started: float,
    *,
    given_up: Failure | None,
    reason: str,
    fault: Failure | None = None,
) -> Outcome | None:
    """Return and write the outcome of a trial whose process reported none; None if it runs again.

    The coordinator has ended the process (``given_up``), a device did (``fault``), or it
    disappeared (``reason``).
    """
    if known := given_up or fault:
        outcome = ended(spec, known, files, started)
    elif note_loss(files, reason) < MOST:
        return None
    else:
        outcome = lost(spec, reason, files, started)
    write_text_atomically(files.outcome, outcome.model_dump_json(indent=1) + "\n")
    return outcome


def lost_for_good(files: JobPaths) -> str | None:
    """Return how a trial's process disappeared the last time it may; None: the trial may retry."""
    if not files.lost.exists() or _losses(files) < MOST:
        return None
    return files.lost.read_text(encoding="utf-8").strip()


def _losses(files: JobPaths) -> int:
    return files.lost.exists() + len(list(files.directory.glob("attempts/*/lost")))


def out_of_memory_attempts(files: JobPaths) -> list[Outcome]:
    """Return the outcomes of archived attempts that ran out of memory."""
    return [outcome for outcome in _archived(files) if _is_out_of_memory(outcome)]


def _archived(files: JobPaths) -> list[Outcome]:
    found = (read_outcome(JobPaths(path)) for path in files.directory.glob("attempts/*"))
    return [outcome for outcome in found if outcome is not None]


def may_be_smaller(spec: TrialSpec, outcome: Outcome, files: JobPaths) -> bool:
    """Return whether the trial gets another attempt with half the rows in a micro-batch.

    A trial that ran out of memory gets one such attempt, if it was being trained and its rows can
    be halved. A student that does not fit while it is scored is scored in smaller batches by the
    same process, so a finished training is never repeated.
    """
    return (
        _is_out_of_memory(outcome)
        and outcome.failure is not None
        and helps_training(outcome.failure.phase)
        and spec.settings.per_device_train_batch_size % 2 == 0
        and not out_of_memory_attempts(files)
    )


def runs_elsewhere(outcome: Outcome, files: JobPaths) -> bool:
    """Return whether a trial that failed through its device, perhaps, gets another attempt.

    A fault of the device itself is never held against it, since such a device is soon set aside. A
    kernel or a connection that failed may be the trial's own fault. It is once it fails on two
    devices that have nothing in common, or ``MOST_SUSPICIONS`` times.
    """
    failure = outcome.failure
    if failure is None or failure.kind not in ELSEWHERE:
        return False
    earlier = [before.failure for before in _archived(files) if before.failure]
    return may_be_the_device([*earlier, failure])


def smaller(settings: MethodSettings) -> MethodSettings:
    """Return settings for the same optimiser steps in twice as many micro-batches of half the rows.

    Half as many rollouts are sampled at a time, too.
    """
    window = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    return settings.model_copy(
        update={
            "per_device_train_batch_size": settings.per_device_train_batch_size // 2,
            "gradient_accumulation_steps": settings.gradient_accumulation_steps * 2,
            "rollout_batch_size": max(1, (settings.rollout_batch_size or window) // 2),
        }
    )


def _is_out_of_memory(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.kind == "out_of_memory"


def lost(spec: TrialSpec, reason: str, files: JobPaths, started: float | None = None) -> Outcome:
    """Return the outcome of a trial whose process keeps disappearing, with the end of its log."""
    failure = Failure(kind="lost", message=f"lost {MOST} times: {reason}")
    return ended(spec, failure, files, started)


def ended(
    spec: TrialSpec, failure: Failure, files: JobPaths, started: float | None = None
) -> Outcome:
    """Return the outcome of a trial whose process was ended before it could report one.

    The end of its log is added to ``failure``; ``started`` is in seconds since the epoch.
    """
    log = files.log.read_text(encoding="utf-8", errors="replace") if files.log.exists() else ""
    rows, _ = read_json_lines(files.progress)
    now = time.time()
    if started is None:
        started = float(rows[0]["time"]) if rows else now
    before = max((row.get("seconds_before", 0.0) for row in rows), default=0.0)
    steps = max((row["step"] for row in rows if row.get("metrics") and row.get("step")), default=0)
    return Outcome(
        state="failed",
        failure=failure.model_copy(update={"details": redact_credentials(log[-4000:])}),
        cost=Cost(steps=steps, device_seconds=now - started + before).on(spec.place.processes),
        earlier_seconds=spec.earlier_seconds,
        attempt=spec.attempt,
        started=started,
        finished=now,
        device=spec.place.device,
        devices=spec.place.processes,
    )
