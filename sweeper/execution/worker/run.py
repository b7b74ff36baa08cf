"""The boundary of a job: whatever happens in it becomes an outcome."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sweeper.distillation.data.training_data import unpack_models
from sweeper.execution.fault_texts import NO_DISTRIBUTION, DeviceFault, failed_assertion
from sweeper.execution.worker.baselines import score_baseline
from sweeper.execution.worker.choose_engine import ENGINE_PHASE, choose_engine
from sweeper.execution.worker.compare_pair import compare_pair
from sweeper.execution.worker.device_faults import device_fault
from sweeper.execution.worker.inspect_data import inspect_data
from sweeper.execution.worker.out_of_memory import is_out_of_memory
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.execution.worker.trial import run_trial
from sweeper.execution.worker.written import score_written
from sweeper.foundation import disk
from sweeper.foundation.cache import noting
from sweeper.foundation.environment import package_versions
from sweeper.foundation.errors import TrialError
from sweeper.foundation.places import place_error
from sweeper.foundation.secrets import redact_credentials, secrets_in, secrets_of_environment
from sweeper.records import (
    OF_DEVICES,
    Cost,
    Failure,
    Outcome,
    PreparationSpec,
    TrialSpec,
)
from sweeper.records.layout import JobPaths
from sweeper.records.remedies import device_remedies, divergence_remedies, memory_remedies

Spec = TypeVar("Spec", TrialSpec, PreparationSpec)

_LAST_BYTES = 64 * 1024
"""Bytes at the end of the log in which a failed assertion is looked for."""
_kept: list[BaseException] = []
"""Errors that nothing may release: with a broken device, the end of a tensor ends the process."""


def run_job(spec: TrialSpec | PreparationSpec) -> Outcome:
    """Run the job and return how it ended: a failure is a value, and this is where it is caught."""
    paths = JobPaths(Path(spec.place.directory))
    reporter = ProgressWriter(paths, silent=spec.place.rank > 0)
    started = time.time()
    common: dict[str, Any] = {
        "attempt": spec.attempt,
        "started": started,
        "host": socket.gethostname(),
        "device": spec.place.device,
        "devices": spec.place.processes,
        "versions": package_versions(),
    }
    if isinstance(spec, TrialSpec):
        common["earlier_seconds"] = spec.earlier_seconds
    try:
        found = _run_step(spec, reporter)
    except Exception as error:  # the one boundary: whatever happened becomes an outcome
        failure = _without_secrets(failure_of(error, reporter.phase_name, spec), spec)
        if failure.kind in OF_DEVICES:
            _kept.append(error)
        with suppress(OSError):  # the log's disk may be full
            print(failure.details, file=sys.stderr)
        return Outcome(
            state="failed",
            failure=failure,
            finished=time.time(),
            cost=reporter.cost(time.time() - started).on(spec.place.processes),
            curve=reporter.point,
            collapse=reporter.collapse,
            notes=reporter.warnings,
            **common,
        )
    finished = time.time()
    cost = found.pop("cost", Cost())
    seconds = finished - started + reporter.seconds_before
    cost = cost.model_copy(update={"device_seconds": seconds}).on(spec.place.processes)
    found.setdefault("state", "completed")
    notes = (*found.pop("notes", ()), *reporter.warnings)
    return Outcome(
        finished=finished, cost=cost, collapse=reporter.collapse, notes=notes, **found, **common
    )


def _run_step(spec: TrialSpec | PreparationSpec, reporter: ProgressWriter) -> dict[str, Any]:
    """Return the parts of the outcome that follow from the job."""
    if isinstance(spec, TrialSpec):
        return run_trial(_unpacked(spec), reporter)
    with noting() as entries:
        if spec.step == "data":
            # Reads the models itself: what is wrong with them must not hide the rest.
            found = inspect_data(spec, reporter)
            seen = found["examination"]
            problems = tuple(_without_secrets(problem, spec) for problem in seen.problems)
            found["examination"] = seen.model_copy(update={"problems": problems})
            found |= {"failure": problems[0], "state": "failed"} if problems else {}
        elif spec.step == "written":
            found = score_written(_unpacked(spec), reporter)
        elif spec.step == "engines":
            found = choose_engine(_unpacked(spec), reporter)
        elif spec.step == "pair":
            found = compare_pair(_unpacked(spec), reporter)
        else:
            found = score_baseline(_unpacked(spec), reporter)
    found["cached"] = tuple(sorted(map(str, entries)))
    return found


def _unpacked(spec: Spec) -> Spec:
    return spec.model_copy(update={"origin": unpack_models(spec.origin)})


def _places(spec: TrialSpec | PreparationSpec) -> tuple[Path, ...]:
    """Return the places where a job writes."""
    return Path(spec.place.directory), Path(spec.origin.cache), Path(tempfile.gettempdir())


def failure_of(error: Exception, phase: str, spec: TrialSpec | PreparationSpec) -> Failure:
    """Return the failure of a job that an error ended in ``phase``; makes no call of a device."""
    places = _places(spec)
    text = str(error).strip() or type(error).__name__
    message = text.splitlines()[0]
    kind: str
    no_memory = is_out_of_memory(error)
    on_gpu = spec.place.device.startswith("cuda")
    # On another device it is an error of the code to call a GPU.
    fault = device_fault(error) if on_gpu else None
    # After an assertion, whatever is asked of the device fails, the memory of a library included.
    asserted = _failed_assertion(spec) if on_gpu and (no_memory or fault) else None
    if disk.is_full(error, *places):
        kind = "full_disk"
        message = disk.explain(error, *places)
    elif asserted is not None:
        kind = asserted.kind
        message = f"while in phase {phase!r}: {asserted.line}"
    elif no_memory:
        kind = "out_of_memory"
        message = f"while in phase {phase!r}: {message}"
    elif fault is not None:
        kind = fault.kind
        message = f"while in phase {phase!r}: {fault.line}"
    elif isinstance(error, TrialError):
        kind = error.kind
    elif isinstance(error, OSError) and (unusable := place_error(error)):
        # Trying again is useless.
        kind, message = "bad_input", str(unusable)
    elif NO_DISTRIBUTION in text:
        kind = "diverged"
        message = f"while in phase {phase!r}: {message}"
    else:
        kind = "bug"
        message = f"while in phase {phase!r}: {type(error).__name__}: {message}"
    return Failure.model_validate(
        {
            "kind": kind,
            "message": message,
            "phase": phase,
            "key": getattr(error, "key", ()),
            "remedies": getattr(error, "remedies", ()) or _remedies(kind, spec, phase),
            "details": traceback.format_exc(),
        }
    )


def _failed_assertion(spec: TrialSpec | PreparationSpec) -> DeviceFault | None:
    """Return the assertion that failed in a kernel of the job, which only its log shows."""
    try:
        with JobPaths(Path(spec.place.directory)).log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
            return failed_assertion(file.read().decode("utf-8", errors="replace"))
    except OSError:
        return None


def _remedies(kind: str, spec: TrialSpec | PreparationSpec, phase: str) -> tuple[str, ...]:
    """Return what to try after such a failure; nothing where settings cannot help."""
    if isinstance(spec, TrialSpec) and kind == "diverged":
        return divergence_remedies(spec)
    if kind == "out_of_memory":
        return memory_remedies(spec, phase)
    tested = phase.startswith(ENGINE_PHASE) and kind == "failed_kernel"
    own = ("rollouts: {engine: …} with another engine",) if tested else ()
    return (*own, *device_remedies(kind))


def _without_secrets(failure: Failure, spec: TrialSpec | PreparationSpec) -> Failure:
    known = secrets_in(spec) | secrets_of_environment()
    texts = {"message": failure.message, "details": failure.details}
    return failure.model_copy(
        update={name: redact_credentials(text, known) for name, text in texts.items()}
    )
