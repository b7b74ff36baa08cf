"""A study as the reports see it: what was recorded of its arms, its trials and its winners.

Frozen, plain and JSON, like the records of jobs that they are made of.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from sweeper.config.base import Scalar
from sweeper.config.confirm import CostMeasure
from sweeper.config.settings import Method
from sweeper.records import SCHEMA_VERSION, ConfirmationRun, DataSummary, Outcome, Record


class TrialRecord(Record):
    """A trial as the reports see it."""

    number: int
    state: Literal["completed", "pruned", "failed", "running", "waiting"]
    params: dict[str, Scalar]
    settings: dict[str, Any]
    outcome: Outcome | None = None


class Plan(Record):
    """``plan.json``: everything that is scored on the test suite."""

    schema_version: int = SCHEMA_VERSION
    suite_hash: str
    """Of the test suite."""
    declared: float
    """Seconds since the epoch."""
    finals: dict[str, tuple[ConfirmationRun, ...]]
    """By arm, all that were ever declared; their place is their number."""
    current: dict[str, tuple[int, ...]]
    """By arm, the numbers of those that the verdict is about."""
    looks: int = 1
    """How often finalists were declared: the first verdict is the only one without a look at the
    test suite before."""


class CurvePoint(Record):
    """A point of a training curve."""

    step: int
    """Optimiser steps done."""
    loss: float | None = None
    """The mean training loss since the last point; of one method with one ``beta`` only."""
    teacher_divergence: float | None = None
    """Nats a token from the teacher on text that no arm trains on: the same yardstick for all."""


class ConfirmationRunRecord(Record):
    """A winner that is trained again, as the reports see it."""

    number: int
    final: ConfirmationRun
    state: Literal["completed", "pruned", "failed", "running", "waiting"]
    outcome: Outcome | None = None
    curve: tuple[CurvePoint, ...] = ()
    """Of its training, in ascending steps; an even selection of the points."""


class ArmRecord(Record):
    """An arm with all of its trials."""

    name: str
    method: Method
    budget: int
    device_hours: float | None = None
    """What its trials may take on their devices; None: as much as they need."""
    stopped: Literal["device_hours", "wall_time", "patience"] | None = None
    """The limit that ended it before it has had its trials."""
    settings: dict[str, Any]
    """What the study file fixes for the arm."""
    search: dict[str, Any]
    """What the study file searches, as written there."""
    trials: tuple[TrialRecord, ...]
    finals: tuple[ConfirmationRunRecord, ...] = ()
    """Its winners once more, as the study's plan declares them."""


class Provenance(Record):
    """What is needed to reproduce a study."""

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
    """What a training stood on: to be the same in all arms."""

    start: str
    """A digest of the student and how it was made ready; of its adapter, too."""
    prompts: str
    """The beginning of the examples' fingerprint."""
    teacher: str
    """A digest of the teacher."""
    sequences: int
    """Of an optimiser step."""


class ConfirmedWinner(Record):
    """An arm's winner, trained again with several seeds, on the test suite."""

    arm: str
    method: Method
    trial: int
    at: CostMeasure
    max_steps: int
    seeds: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    """By seed and document, in the suite's units."""
    selection: tuple[float, ...]
    """The same students' scores on the selection suite, by seed."""
    searched: float
    """The trial's score on it in the search."""
    device_seconds: float
    """The mean of one training and its scoring."""
    training_seconds: float = 0.0
    """Of that, the training: what grows with its steps."""
    trained_tokens: float
    """The mean over seeds."""
    footings: tuple[MatchedConditions, ...] = ()
    """Those of its trainings that differ."""


class ConfirmationScores(Record):
    """Everything that was measured on the test suite."""

    suite: str
    higher_is_better: bool
    tasks: tuple[str, ...]
    """Of each document."""
    shares: tuple[float, ...]
    clusters: tuple[str, ...]
    documents_hash: str = ""
    """A digest of the documents, in their order, with what is measured on them and how much each
    counts: scores of two studies compare document by document only if it is the same."""
    arms: tuple[ConfirmedWinner, ...]
    teacher: tuple[float, ...] | None
    """By document."""
    starting_student: tuple[float, ...] | None
    looks: int = 1
    """How often winners were declared; see ``Plan``."""
    missing: tuple[str, ...] = ()
    """Winners that could not be trained or scored again, in words."""


class Confirmation(Record):
    """What a study knows of its test suite."""

    plan: Plan
    scores: ConfirmationScores | None = None
    """Once the winners of two arms, or more, were scored."""
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
        """What tells it from all other documents."""
        return self.task, self.doc_id, self.doc_hash


class TeacherGap(Record):
    """How much better the teacher is than the student that all arms start from."""

    teacher: float
    """Its score on the selection suite."""
    student: float
    value: float
    """The difference; positive where the teacher is better, whichever way the suite counts."""
    low: float
    high: float
    """The interval of 95 %, for other documents."""
    stderr: float
    p: float
    """Two-sided."""
    documents: int
    """That the score is made of."""
    paired: bool
    """Whether they were compared document by document; else as two independent scores."""


class StudyRecord(Record):
    """Everything that reports need to know about a study."""

    schema_version: int = SCHEMA_VERSION
    study: str
    config: dict[str, Any]
    """The study file as it was read, overrides included."""
    provenance: Provenance
    arms: tuple[ArmRecord, ...]
    teacher: Outcome | None
    starting_student: Outcome | None
    data: DataSummary | None
    higher_is_better: bool = True
    lead: TeacherGap | None = None
    """The teacher's, once it and the starting student were scored; None in old records."""
    test: Confirmation | None = None
    """None before winners are trained again."""


def finite_number(value: object) -> float | None:
    """``value`` if it is a finite number; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number_of(trial: TrialRecord, name: str) -> float | None:
    """A trial's setting, sampled or fixed, if it is a finite number."""
    return finite_number(trial.params.get(name, trial.settings.get(name)))
