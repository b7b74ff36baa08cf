"""Attempts at a trial: the spec of the next, and what is kept of those that did not finish."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable

from sweeper.config.settings import MethodSettings, effective, model_settings, resolve
from sweeper.config.study import StudyConfig
from sweeper.foundation.files import read_json_lines, write_text_atomically
from sweeper.foundation.secrets import redact_credentials
from sweeper.records import (
    ConfirmationRun,
    Cost,
    Failure,
    FailureKind,
    IntermediatePoint,
    Outcome,
    Resources,
    StudyInputs,
    SuiteSpec,
    TrialSpec,
)
from sweeper.records.layout import JobPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.records.seeds import confirmation_seed, trial_seed
from sweeper.search.arm_search import Asked

MOST = 3
"""How often a trial is started when its process keeps disappearing."""

UNSPENT: frozenset[FailureKind] = frozenset({"bad_input", "full_disk"})
"""Failures that stop the study: once their cause is mended, the same trial runs again."""


def archive_attempt(files: JobPaths) -> int:
    """Move what an unfinished attempt left behind.

    Returns:
        The number of the attempt to start, from 1.
    """
    root = files.directory / "attempts"
    earlier = len(list(root.iterdir())) if root.is_dir() else 0
    # From here on the trial is not done any more.
    files.recorded.unlink(missing_ok=True)
    if not files.spec.exists():
        files.outcome.unlink(missing_ok=True)
        return earlier + 1
    # Without a spec, the last one is a move that was interrupted.
    interrupted = earlier > 0 and not files.attempt(earlier).spec.exists()
    number = earlier if interrupted else earlier + 1
    kept = files.attempt(number)
    kept.directory.mkdir(parents=True, exist_ok=True)
    # The spec goes last: while it stands, an interrupted move is taken up again.
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


def next_spec(
    config: StudyConfig,
    origin: StudyInputs,
    suite: SuiteSpec,
    arm: str,
    asked: Asked,
    *,
    interim: Iterable[tuple[int, float]],
    place: Resources,
    files: JobPaths,
    final: ConfirmationRun | None = None,
    test_suite: SuiteSpec | None = None,
) -> TrialSpec:
    """The spec of a trial's next attempt, once what an earlier one left is set aside.

    Args:
        config: The study.
        origin: What its jobs share.
        suite: The selection suite.
        arm: The arm's name.
        asked: The trial.
        interim: Where in its training the student is scored: the points, and their shares of the
            optimiser steps.
        place: Where it runs.
        files: The trial's.
        final: What it is, if it is a winner that is trained again.
        test_suite: What that is scored on as well.
    """
    attempt = archive_attempt(files)
    method, fixed = config.arms[arm].method, config.arms[arm].settings
    settings = effective(method, resolve(config.training, fixed, asked.params))
    seed = trial_seed(config.seed, arm, asked.number)
    if final is not None:
        settings = settings.model_copy(update={"max_steps": final.max_steps})
        seed = confirmation_seed(config.seed, final.seed)
    if ran_out_of_memory(files):
        settings = smaller(settings)
    return TrialSpec(
        origin=origin,
        arm=arm,
        method=method,
        number=asked.number,
        attempt=attempt,
        seed=seed,
        params=asked.params,
        settings=settings,
        lora=model_settings("lora", fixed, asked.params),
        teacher=model_settings("teacher", fixed, asked.params),
        suite=suite,
        interim=_steps(interim, settings.max_steps, config.pruner.documents),
        earlier_seconds=out_of_memory_seconds(files),
        final=final,
        test_suite=test_suite,
        place=place.model_copy(
            update={
                "memory_gib": config.compute.memory_limit,
                "shard_teacher": config.compute.shard_teacher,
                "shard_student": config.compute.shard_student,
            }
        ),
    )


def _steps(
    points: Iterable[tuple[int, float]], max_steps: int, documents: int
) -> tuple[IntermediatePoint, ...]:
    """The points as whole steps; of two at the same step the first, and none at the end."""
    steps: dict[int, IntermediatePoint] = {}
    for index, share in points:
        step = max(1, round(share * max_steps))
        if step < max_steps and step not in steps:
            steps[step] = IntermediatePoint(index=index, step=step, documents=documents)
    return tuple(steps.values())


def is_over(outcome: Outcome | None, files: JobPaths) -> bool:
    """Whether a trial has ended for good, and can be read: one that has not runs again."""
    if outcome is None or (outcome.failure is not None and outcome.failure.kind in UNSPENT):
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
    """Note that the attempt's process disappeared.

    Returns:
        How often that has happened to the trial, in this run of the study and in earlier ones.
    """
    write_text_atomically(files.lost, reason + "\n")
    return _losses(files)


def lost_for_good(files: JobPaths) -> str | None:
    """How the process of a trial disappeared that is not to be started again; None otherwise."""
    if not files.lost.exists() or _losses(files) < MOST:
        return None
    return files.lost.read_text(encoding="utf-8").strip()


def _losses(files: JobPaths) -> int:
    return files.lost.exists() + len(list(files.directory.glob("attempts/*/lost")))


def ran_out_of_memory(files: JobPaths) -> bool:
    """Whether an earlier attempt, one that was set aside, did."""
    return bool(_out_of_memory(files))


def out_of_memory_seconds(files: JobPaths) -> float:
    """What earlier attempts that ran out of memory took on their devices."""
    return sum(outcome.cost.device_seconds for outcome in _out_of_memory(files))


def _out_of_memory(files: JobPaths) -> list[Outcome]:
    earlier = (read_outcome(JobPaths(path)) for path in files.directory.glob("attempts/*"))
    return [outcome for outcome in earlier if outcome and _is_out_of_memory(outcome)]


def may_be_smaller(spec: TrialSpec, outcome: Outcome, files: JobPaths) -> bool:
    """Whether the trial gets another attempt with half the rows in a micro-batch.

    One that ran out of memory does, once, if the rows can be halved.
    """
    return (
        _is_out_of_memory(outcome)
        and spec.settings.per_device_train_batch_size % 2 == 0
        and not ran_out_of_memory(files)
    )


def smaller(settings: MethodSettings) -> MethodSettings:
    """The same optimiser steps in twice as many micro-batches of half the rows.

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
    """The outcome of a trial whose process keeps disappearing, with the end of its log."""
    failure = Failure(kind="lost", message=f"lost {MOST} times: {reason}")
    return ended(spec, failure, files, started)


def ended(
    spec: TrialSpec, failure: Failure, files: JobPaths, started: float | None = None
) -> Outcome:
    """The outcome of a trial whose process was ended before it could report one.

    Args:
        spec: The trial's.
        failure: Why it was ended; the end of its log is added.
        files: The trial's.
        started: When its process was started, in seconds since the epoch, if it is known.
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
