"""What a job tells: its progress, and how it ended."""

from __future__ import annotations

from typing import Literal

from sweeper.records.base import SCHEMA_VERSION, Failure, Record
from sweeper.records.data_check import DataCheck, DataSummary

INTERIM_PHASE = "interim score"
"""The phase of a job that scores its student in the middle of the training."""


class IntermediateScore(Record):
    """A student's score in the middle of its training."""

    index: int
    """The point's; see ``IntermediatePoint``."""
    score: float
    """The suite's aggregate over the documents scored."""
    documents: tuple[float, ...]
    """Each document's score, signed as the aggregate takes it, in the same order for all trials."""
    scored: int | None = None
    """How many were scored, with those of tasks of weight 0; None in old records."""


class Progress(Record):
    """One line of a job's progress file."""

    time: float
    """Seconds since the epoch, by the worker's clock."""
    phase: str
    """What the job is doing: ``load``, ``train``, ``evaluate``, …"""
    step: int | None = None
    """Optimiser steps done."""
    max_steps: int | None = None
    metrics: dict[str, float] = {}
    """Points of the training curve at ``step``: ``loss``, ``learning_rate``, …"""
    interim: IntermediateScore | None = None
    seconds_before: float = 0.0
    """What the steps took that an earlier attempt did, where a training goes on from them."""


class TaskScore(Record):
    """One task's score over the documents that the suite names."""

    task: str
    metric: str
    score: float
    """The metric's mean over documents; nats per byte for perplexities."""
    stderr: float
    """The standard error of ``score`` over documents."""
    documents: int
    higher_is_better: bool
    weight: float


class Scores(Record):
    """A model's scores on one suite."""

    suite: str
    suite_hash: str
    score: float
    """The suite's aggregate: the study's objective. Lower-is-better tasks enter with their sign
    turned, unless all tasks are so."""
    stderr: float
    higher_is_better: bool
    tasks: tuple[TaskScore, ...]
    seconds: float


class Cost(Record):
    """What a job cost, measured by itself."""

    steps: int = 0
    """Optimiser steps."""
    trained_tokens: int = 0
    """Tokens that the loss was taken over."""
    generated_tokens: int = 0
    """Tokens that the student sampled."""
    device_seconds: float = 0.0
    """Wall seconds on the job's device, from model loading to the last score; of several devices
    all of theirs. Of a trial that was interrupted: what its last attempt took, and the steps that
    it went on from."""
    seconds: dict[str, float] = {}
    """The parts, in device-seconds: ``load``, ``rollout``, ``teacher``, ``student``, ``optimiser``,
    ``diagnostics``, ``checkpoint``, ``evaluation``."""

    def training_seconds(self) -> float:
        """What grows with the steps of a training."""
        parts = ("rollout", "teacher", "student", "optimiser")
        return sum(self.seconds.get(part, 0.0) for part in parts)

    def on(self, devices: int) -> Cost:
        """The cost of a job that took as long on so many devices."""
        return self.model_copy(
            update={
                "device_seconds": self.device_seconds * devices,
                "seconds": {part: value * devices for part, value in self.seconds.items()},
            }
        )


class Rollouts(Record):
    """What a student sampled while it was trained: means over the whole training."""

    on_policy_share: float
    """Of the micro-batches: what ``lmbda`` came to."""
    length: float | None = None
    """Tokens of a rollout; None if there were none."""
    truncated_share: float | None = None
    """Of the rollouts, those that ``max_new_tokens`` cut; None if there were none, or if the
    trainer does not say."""


class Outcome(Record):
    """How a job ended: the truth about it."""

    schema_version: int = SCHEMA_VERSION
    state: Literal["completed", "pruned", "failed"]
    failure: Failure | None = None
    scores: Scores | None = None
    test_scores: Scores | None = None
    """On the test suite, of a winner that was trained again."""
    data: DataSummary | None = None
    """From the ``data`` step."""
    examination: DataCheck | None = None
    """From the ``data`` step, even if it failed."""
    notes: tuple[str, ...] = ()
    """What a user should know of it."""
    held_out: str | None = None
    """From the ``teacher`` step: see ``StudyInputs``."""
    cached: tuple[str, ...] = ()
    """From the preparation: what it left in the cache for the trials."""
    interim: IntermediateScore | None = None
    """The last one, of a trial that was pruned."""
    cost: Cost = Cost()
    earlier_seconds: float = 0.0
    """Device-seconds of the attempts before, which ran out of memory; not in ``cost``."""
    curve: dict[str, float] = {}
    """The last training point: loss, on-policy share, rollout length, …"""
    rollouts: Rollouts | None = None
    """Over the whole training, of a trial that was not ended by a failure."""
    attempt: int = 1
    started: float
    """Seconds since the epoch."""
    finished: float
    host: str = ""
    device: str = ""
    devices: int = 1
    """How many the job had to itself."""
    versions: dict[str, str] = {}
    """Package versions in the process that did the work."""
    model_parameters: int | None = None
    """Parameters of the scored model."""
    peak_bytes: int | None = None
    """The most memory that the job took: of its GPU, else its process's main memory, libraries
    included; None in old records."""

    @property
    def wall_seconds(self) -> float:
        """What the last attempt took, with the steps that it went on from."""
        return self.cost.device_seconds / self.devices
