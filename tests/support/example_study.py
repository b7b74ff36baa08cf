"""A made-up study in the shape of a real one: five arms, with what can be odd about them."""

from __future__ import annotations

import math
import random
from typing import Any

from sweeper.config.base import Scalar
from sweeper.config.settings import Method
from sweeper.records import Cost, DataSummary, Failure, FailureKind, Outcome, Scores, TaskScore
from sweeper.records.study_record import ArmRecord, Provenance, StudyRecord, TrialRecord

START = 1_760_000_000.0
LR = {"type": "float", "low": 1.0e-4, "high": 1.0e-2, "log": True, "step": None}
GKD_SEARCH: dict[str, Any] = {
    "lmbda": {"type": "float", "low": 0.0, "high": 1.0, "log": False, "step": 0.25},
    "beta": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
    "temperature": {"type": "float", "low": 0.3, "high": 1.2, "log": False, "step": None},
    "learning_rate": LR,
}


def scores(score: float, stderr: float = 0.016, *, higher_is_better: bool = True) -> Scores:
    """A score on the selection suite."""
    task = TaskScore(
        task="addition",
        metric="exact_match",
        score=score,
        stderr=stderr,
        documents=500,
        higher_is_better=higher_is_better,
        weight=1.0,
    )
    return Scores(
        suite="addition-select",
        suite_hash="5a1e" * 16,
        score=score,
        stderr=stderr,
        higher_is_better=higher_is_better,
        tasks=(task,),
        seconds=2.5,
    )


def completed(
    score: float,
    *,
    stderr: float = 0.016,
    seconds: float = 20.0,
    generated: int = 0,
    higher_is_better: bool = True,
) -> Outcome:
    """A job that ended with a score."""
    return Outcome(
        state="completed",
        scores=scores(score, stderr, higher_is_better=higher_is_better),
        cost=Cost(
            steps=300,
            trained_tokens=96_000,
            generated_tokens=generated,
            device_seconds=seconds,
            seconds={"student": seconds * 0.7, "evaluation": seconds * 0.3},
        ),
        started=START,
        finished=START + seconds,
    )


def failed(kind: FailureKind = "out_of_memory", message: str = "CUDA out of memory") -> Outcome:
    """A job that did not."""
    return Outcome(
        state="failed",
        failure=Failure(kind=kind, message=message, details="Traceback …"),
        cost=Cost(steps=12, device_seconds=4.0),
        started=START,
        finished=START + 4.5,
    )


def trial(number: int, outcome: Outcome | None, **params: Scalar) -> TrialRecord:
    """A trial whose state follows from its outcome; without one it is running."""
    settings = {"lmbda": 0.5, "beta": 0.5, "learning_rate": 2.0e-5, **params}
    state = outcome.state if outcome else "running"
    return TrialRecord(
        number=number, state=state, params=params, settings=settings, outcome=outcome
    )


def arm(
    name: str,
    trials: list[TrialRecord],
    *,
    method: Method | None = None,
    budget: int | None = None,
    search: dict[str, Any] | None = None,
) -> ArmRecord:
    """An arm; the method is the name unless said otherwise."""
    return ArmRecord(
        name=name,
        method=method or name,  # type: ignore[arg-type]
        budget=budget or max(len(trials), 1),
        settings={},
        search=search or {},
        trials=tuple(trials),
    )


def study(
    arms: list[ArmRecord],
    *,
    teacher: float | None = 0.938,
    student: float | None = 0.312,
    higher_is_better: bool = True,
    config: dict[str, Any] | None = None,
) -> StudyRecord:
    """A study of these arms."""
    return StudyRecord(
        study="adder",
        config=config or CONFIG,
        provenance=Provenance(
            command="sweeper run studies/adder.yaml --set trials=12",
            study_file="studies/adder.yaml",
            started=START,
            git_revision="0123456789abcdef+",
            versions={"torch": "2.9.1", "trl": "1.16.0", "python": "3.11.9"},
            hardware={"cpu": "2 cores", "gpu": "none"},
            data_fingerprint="da7a" * 16,
            suite_hashes={"selection": "5a1e" * 16},
        ),
        arms=tuple(arms),
        teacher=None
        if teacher is None
        else completed(teacher, stderr=0.011, seconds=3, higher_is_better=higher_is_better),
        starting_student=None
        if student is None
        else completed(student, stderr=0.021, seconds=2, higher_is_better=higher_is_better),
        data=DataSummary(
            rows=4000,
            used=3990,
            fingerprint="da7a" * 16,
            source="builtin/addition",
            prompt_tokens=8.2,
            completion_tokens=4.1,
            chat=False,
            notes=("10 rows are longer than max_length and were dropped",),
        ),
        higher_is_better=higher_is_better,
    )


CONFIG: dict[str, Any] = {
    "study": "adder",
    "seed": 7,
    "trials": 12,
    "teacher": {"model": "builtin/adder-teacher", "dtype": "float32"},
    "student": {"model": "builtin/adder-student"},
    "data": {"train": {"path": "builtin/addition"}},
    "arms": {"gkd": {"search": GKD_SEARCH}, "sft": {"search": {"learning_rate": LR}}},
    "evaluation": {"selection": "eval_suites/addition.yaml"},
}


def _learning_rate_effect(rate: float) -> float:
    return 0.10 * math.log10(rate / 2e-3) ** 2


def _gkd_trial(number: int, rng: random.Random) -> TrialRecord:
    params: dict[str, Scalar] = {
        "lmbda": rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]),
        "beta": rng.choice([0.0, 0.5, 1.0]),
        "learning_rate": 10 ** rng.uniform(-4, -2),
    }
    if params["lmbda"]:
        params["temperature"] = rng.uniform(0.3, 1.2)
    score = 0.66 + 0.16 * float(params["lmbda"] or 0) - 0.05 * float(params["beta"] or 0)
    score -= _learning_rate_effect(float(params["learning_rate"] or 1))
    outcome = completed(
        round(score + rng.gauss(0, 0.01), 4),
        seconds=18 + 40 * float(params["lmbda"] or 0) + rng.random(),
        generated=int(64_000 * float(params["lmbda"] or 0)),
    )
    return trial(number, outcome, **params)


def _offline_trials(
    top: float, seconds: float, count: int, rng: random.Random
) -> list[TrialRecord]:
    trials = []
    for number in range(count):
        rate = 10 ** rng.uniform(-4, -2)
        score = round(top - _learning_rate_effect(rate) + rng.gauss(0, 0.01), 4)
        trials.append(
            trial(number, completed(score, seconds=seconds + rng.random()), learning_rate=rate)
        )
    return trials


def example_study(trials: int = 12) -> StudyRecord:
    """Five arms, with failed trials, a running one, and no ``temperature`` at lmbda 0."""
    rng = random.Random(3)
    gkd = [_gkd_trial(number, rng) for number in range(trials)]
    gkd[3] = trial(3, failed(), lmbda=1.0, beta=0.5, learning_rate=4e-3, temperature=1.0)
    gkd[-1] = trial(trials - 1, None, lmbda=0.75, beta=0.0, learning_rate=2e-3, temperature=0.7)
    default = [trial(0, completed(0.7012, seconds=38, generated=32_000))]
    sft = _offline_trials(0.63, 11, trials, rng)
    sft[5] = trial(5, failed("diverged", "loss is NaN at step 12"), learning_rate=9.9e-3)
    lr = {"learning_rate": LR}
    return study(
        [
            arm("gkd", gkd, search=GKD_SEARCH),
            arm("gkd-default", default, method="gkd"),
            arm("sft", sft, search=lr),
            arm("seqkd", _offline_trials(0.60, 12, trials, rng), search=lr),
            arm("supervised_kd", _offline_trials(0.71, 16, trials, rng), search=lr),
        ]
    )
