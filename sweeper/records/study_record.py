"""A study as the reports see it: what was recorded of its arms, its trials and its winners.

Frozen, plain and JSON, like the records of jobs that they are made of.
"""

from __future__ import annotations

import math
import operator
from typing import Any, Literal, NamedTuple

from pydantic import Field

from sweeper.config.base import Scalar
from sweeper.config.confirm import CostMeasure
from sweeper.config.device_defaults import DeviceDefaults
from sweeper.config.settings import Method
from sweeper.config.suite import SuiteTask
from sweeper.records import (
    SCHEMA_VERSION,
    ConfirmationRun,
    DataSummary,
    DeviceFault,
    EngineChoice,
    EnqueuedSettings,
    Outcome,
    Record,
    ServerRecord,
)
from sweeper.records.base import left_out_if_alone, left_out_if_none


class CurvePoint(Record):
    """A point of a training curve."""

    step: int
    """Optimiser steps done."""
    loss: float | None = None
    """The mean training loss since the last point; of one method with one ``beta`` only."""
    teacher_divergence: float | None = None
    """Nats a token from the teacher on text that no arm trains on: comparable between arms."""
    rollout_length: float | None = None
    """Mean tokens of the rollouts since the last point; they, and what follows, as in
    ``Rollouts``."""
    truncated_share: float | None = None
    ended_share: float | None = None
    repetition: float | None = None
    student_entropy: float | None = None
    teacher_entropy: float | None = None
    teacher_logprob: float | None = None
    rollout_logprob_diff: float | None = left_out_if_none()
    rollout_logprob_diff_max: float | None = left_out_if_none()


Comparisons = tuple[tuple[str, str], ...]
"""Pairs of arms, or of an arm and ``teacher`` or ``start``: the first minus the second."""


class TrialRecord(Record):
    """A trial as the reports see it."""

    number: int
    state: Literal["completed", "pruned", "failed", "running", "waiting"]
    params: dict[str, Scalar]
    settings: dict[str, Any]
    outcome: Outcome | None = None
    enqueued: EnqueuedSettings | None = None
    """Settings that were given for some or all of ``params``; None in old records too."""
    curve: tuple[CurvePoint, ...] = ()
    """Training curve of an on-policy arm's best trial, and of trials that collapsed."""


class Plan(Record):
    """``plan.json``: everything that is scored on the test suite."""

    schema_version: int = SCHEMA_VERSION
    suite_hash: str
    """Hash of the test suite."""
    declared: float
    """Time of the declaration, in seconds since the epoch."""
    finals: dict[str, tuple[ConfirmationRun, ...]]
    """Confirmation runs by arm, all that were ever declared; their place is their number."""
    current: dict[str, tuple[int, ...]]
    """Numbers of the confirmation runs that the verdict is about, by arm."""
    looks: int = 1
    """Number of times that winners were declared: only the first verdict comes without a look at
    the test suite before."""
    compare: Comparisons | None = None
    """Primary comparisons that the study file declares; None: chosen by the default rule."""
    revised: bool = False
    """True if they changed after winners had been declared: the verdict is exploratory."""


class ConfirmationRunRecord(Record):
    """A winner that is trained again, as the reports see it."""

    number: int
    final: ConfirmationRun
    state: Literal["completed", "pruned", "failed", "running", "waiting"]
    outcome: Outcome | None = None
    curve: tuple[CurvePoint, ...] = ()
    """Points of its training in ascending steps, an even selection."""


class TeacherGap(Record):
    """Advantage of the teacher over the student that all arms start from."""

    teacher: float
    """Score of the teacher on the selection suite."""
    student: float
    value: float
    """Difference of the scores; positive where the teacher is better, however the suite counts."""
    low: float
    high: float
    """Upper end of the interval of 95 %, for other documents; ``low`` is its lower end."""
    stderr: float
    p: float
    """Two-sided p-value."""
    documents: int
    """Number of documents that the score is made of."""
    paired: bool
    """True if they were compared document by document; False: as two independent scores."""


class ArmRecord(Record):
    """An arm with all of its trials."""

    name: str
    method: Method
    budget: int
    device_hours: float | None = None
    """Hours that its trials may take on their devices; None: as much as they need."""
    stopped: Literal["device_hours", "wall_time", "patience"] | None = None
    """Limit that ended it before it had its trials."""
    settings: dict[str, Any]
    """Settings that the study file fixes for the arm."""
    search: dict[str, Any]
    """Search space of the arm, as the study file has it."""
    trials: tuple[TrialRecord, ...]
    finals: tuple[ConfirmationRunRecord, ...] = ()
    """Confirmation runs of its winners, as the study's plan declares them."""
    teacher: Outcome | None = None
    """Scores of the arm's own teacher on the selection suite; None if it has the study's."""
    lead: TeacherGap | None = None
    """Gap of the arm's own teacher over the starting student."""


class Provenance(Record):
    """Everything that is needed to reproduce a study."""

    command: str
    study_file: str
    started: float
    git_revision: str | None
    """The revision of the working directory's repository; ``+`` at the end: with local changes."""
    versions: dict[str, str]
    hardware: dict[str, str]
    data_fingerprint: str | None = None
    suite_hashes: dict[str, str] = {}


class MatchedConditions(Record):
    """Conditions of a training, which have to match in all arms."""

    start: str
    """Digest of the student, of how it was made ready, and of its adapter."""
    prompts: str
    """Beginning of the examples' fingerprint."""
    teacher: str
    """Digest of the teacher."""
    sequences: int
    """Sequences of an optimiser step."""
    scored_in: str | None = None
    """Precision of the scores; None if the study declared none."""


class ConfirmedWinner(Record):
    """An arm's winner, trained again with several seeds, on the test suite."""

    arm: str
    method: Method
    trial: int
    at: CostMeasure
    max_steps: int
    seeds: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    """Scores by seed and document, in the suite's units."""
    selection: tuple[float, ...]
    """Scores of the same students on the selection suite, by seed."""
    searched: float
    """Score of the trial on it in the search."""
    device_seconds: float
    """Mean device-seconds of one training and its scoring."""
    training_seconds: float = 0.0
    """Part of these that the training took: what grows with its steps."""
    trained_tokens: float
    """Mean over the seeds."""
    sharing: int = left_out_if_alone()
    """Most jobs that ran at a time on the GPU of one of its trainings, the search's included: their
    seconds do not compare if it is above 1."""
    footings: tuple[MatchedConditions, ...] = ()
    """Conditions of its trainings that differ."""


class ConfirmationScores(Record):
    """Everything that was measured on the test suite."""

    suite: str
    higher_is_better: bool
    tasks: tuple[str, ...]
    """Task of each document."""
    shares: tuple[float, ...]
    clusters: tuple[str, ...]
    documents_hash: str = ""
    """A digest of the documents, in their order, with what is measured on them and how much each
    counts: scores of two studies compare document by document only if it is the same."""
    arms: tuple[ConfirmedWinner, ...]
    teacher: tuple[float, ...] | None
    """Scores of the teacher, by document."""
    starting_student: tuple[float, ...] | None
    looks: int = 1
    """Number of times that winners were declared, as in ``Plan``."""
    compare: Comparisons | None = None
    """Declared primary comparisons, as in ``Plan``."""
    revised: bool = False
    """True if they changed after winners had been declared, as in ``Plan``."""
    missing: tuple[str, ...] = ()
    """Winners that could not be trained or scored again, in words."""


class Confirmation(Record):
    """Results of a study on its test suite."""

    plan: Plan
    scores: ConfirmationScores | None = None
    """Scores on the test suite, once the winners of two arms, or more, have some."""
    teacher: Outcome | None = None
    starting_student: Outcome | None = None


class ScoredDocument(NamedTuple):
    """A document's score as the suite's mean takes it, and what identifies the document."""

    task: str
    doc_id: int
    doc_hash: str
    cluster: str
    share: float
    value: float

    @property
    def key(self) -> tuple[str, int, str]:
        """Identity of the document among all others."""
        return self.task, self.doc_id, self.doc_hash


class StudyRecord(Record):
    """Everything that reports need of a study."""

    schema_version: int = SCHEMA_VERSION
    study: str
    config: dict[str, Any]
    """The study file as it was read, with overrides and what it took from its devices."""
    provenance: Provenance
    arms: tuple[ArmRecord, ...]
    teacher: Outcome | None
    starting_student: Outcome | None
    data: DataSummary | None
    selection: tuple[SuiteTask, ...] = ()
    """Tasks of the selection suite; none in old records, and before the first trial."""
    higher_is_better: bool = True
    lead: TeacherGap | None = None
    """Teacher gap, once teacher and starting student were scored; None in old records."""
    pair: Outcome | None = None
    """Diagnosis of teacher and starting student, if ``sweeper check --probe`` made one."""
    answers: Outcome | None = left_out_if_none()
    """The teacher's answers and states, if a step of their own made them next to the teacher's
    score; else left out."""
    engines: EngineChoice | None = left_out_if_none()
    """What samples the study's rollouts, and why, if the preparation tested that; else left out."""
    device_defaults: DeviceDefaults | None = left_out_if_none()
    """Precision and optimiser that the study took from its devices when it started; left out in
    old records."""
    servers: tuple[ServerRecord, ...] = Field(default=(), exclude_if=operator.not_)
    """Models that were served to the study's jobs, with every start of their servers; left out of
    files where there are none, as in those of earlier versions."""
    device_faults: tuple[DeviceFault, ...] = Field(default=(), exclude_if=operator.not_)
    """Faults of devices in all runs, in their order; left out of files where there are none."""
    test: Confirmation | None = None
    """Confirmation on the test suite; None before winners are trained again."""


def finite_number(value: object) -> float | None:
    """Return ``value`` if it is a finite number, else None; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number_of(trial: TrialRecord, name: str) -> float | None:
    """Return a trial's setting, sampled or fixed, if it is a finite number."""
    return finite_number(trial.params.get(name, trial.settings.get(name)))
