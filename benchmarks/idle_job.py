"""A job that does nothing but everything around it: the files of a trial, and its outcome.

What a job's process runs in ``benchmarks/coordinator.py`` in place of a training: the process, its
log, its lock and the writing of its outcome are the product's.
"""

from __future__ import annotations

import json
import math
import socket
import time
from pathlib import Path

from sweeper.execution.executor import Spec
from sweeper.foundation.environment import package_versions
from sweeper.foundation.files import append_json_line
from sweeper.records import (
    Cost,
    DataSummary,
    Outcome,
    Progress,
    Scores,
    TaskScore,
    TrialSpec,
)
from sweeper.records.layout import JobPaths
from sweeper.records.seeds import derive_seed

DOCUMENTS = 100
"""Of the selection suite."""
POINTS = 5
"""Of the training curve."""


def do_nothing(spec: Spec) -> Outcome:
    """Write what a job would have written by now, and return how it ended."""
    started = time.time()
    files = JobPaths(Path(spec.place.directory))
    append_json_line(files.progress, Progress(time=started, phase="load").model_dump())
    if isinstance(spec, TrialSpec):
        _train(spec, files)
        _evaluate(files)
    checks = not isinstance(spec, TrialSpec) and spec.step == "data"
    return Outcome(
        state="completed",
        scores=None if checks else scores(_value(spec)),
        data=_data() if checks else None,
        cost=Cost(
            steps=100,
            trained_tokens=50_000,
            generated_tokens=20_000,
            device_seconds=time.time() - started,
            seconds={"load": 0.5, "rollout": 3.0, "teacher": 1.0, "student": 5.0, "optimiser": 0.5},
        ),
        curve={"loss": 0.5},
        attempt=spec.attempt,
        started=started,
        finished=time.time(),
        host=socket.gethostname(),
        device=spec.place.device,
        versions=package_versions(),
        model_parameters=100_000,
    )


def scores(value: float) -> Scores:
    """Return a score of ``value`` on a suite of one task."""
    task = TaskScore(
        task="addition",
        metric="exact_match",
        score=value,
        stderr=0.02,
        documents=DOCUMENTS,
        higher_is_better=True,
        weight=1.0,
    )
    return Scores(
        suite="addition-selection",
        suite_hash="0" * 32,
        score=value,
        stderr=0.02,
        higher_is_better=True,
        tasks=(task,),
        seconds=0.1,
    )


def score_of(params: dict[str, object], seed: int) -> float:
    """Return a plausible score of a student trained with ``params``: a smooth hill, and noise."""
    noise = derive_seed(seed, "noise") / 2**31
    lmbda, rate = float(str(params["lmbda"])), float(str(params["learning_rate"]))
    hill = 1 - (lmbda - 0.7) ** 2 - 0.1 * math.log10(rate / 1e-3) ** 2
    return max(0.0, 0.8 * hill + 0.05 * noise)


def _value(spec: Spec) -> float:
    if isinstance(spec, TrialSpec):
        return score_of(dict(spec.params), spec.seed)
    return {"data": 0.0, "teacher": 0.95, "student": 0.1}[spec.step]


def _train(spec: TrialSpec, files: JobPaths) -> None:
    for index in range(POINTS):
        row = Progress(
            time=time.time(),
            phase="train",
            step=20 * (index + 1),
            max_steps=100,
            metrics={
                "loss": 1 / (index + 1),
                "learning_rate": spec.settings.learning_rate,
                "grad_norm": 1.0,
                "on_policy_share": 0.5,
                "trained_tokens": 10_000.0 * (index + 1),
                "generated_tokens": 4_000.0 * (index + 1),
            },
        )
        append_json_line(files.progress, row.model_dump(exclude_defaults=True))


def _evaluate(files: JobPaths) -> None:
    row = Progress(time=time.time(), phase="evaluate").model_dump(exclude_defaults=True)
    append_json_line(files.progress, row)
    lines = [
        json.dumps({"task": "addition", "doc_id": number, "doc_hash": "0" * 64, "score": 1.0})
        for number in range(DOCUMENTS)
    ]
    files.documents.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sample = json.dumps({"task": "addition", "doc_id": 0, "prompt": "1+1?", "answer": "2"})
    files.samples.write_text(f"{sample}\n" * 8, encoding="utf-8")


def _data() -> DataSummary:
    return DataSummary(
        rows=200,
        used=200,
        fingerprint="ab" * 32,
        source="builtin/addition (train)",
        local=True,
        prompt_tokens=9.0,
        completion_tokens=40.0,
        chat=False,
    )
