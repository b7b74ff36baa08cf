"""Records that a job writes: its progress, and how it ended."""

from __future__ import annotations

import operator
from typing import Literal

from pydantic import Field

from sweeper.config.base import ScoringDtype
from sweeper.config.evaluation import ScoringEngine
from sweeper.records.base import (
    SCHEMA_VERSION,
    Failure,
    Record,
    left_out_if_alone,
    left_out_if_none,
    with_remedies,
)
from sweeper.records.data_check import DataCheck, DataSummary
from sweeper.records.engines import EngineChoice
from sweeper.records.pair import PairDiagnosis

INTERIM_PHASE = "interim score"
"""The phase of a job that scores its student in the middle of the training."""


class IntermediateScore(Record):
    """A student's score in the middle of its training."""

    index: int
    """Index of the ``IntermediatePoint``."""
    score: float
    """The suite's aggregate over the documents scored."""
    documents: tuple[float, ...]
    """Each document's score, signed as the aggregate takes it, in the same order for all trials."""
    scored: int | None = None
    """Number of documents scored, with those of weight 0; None in old records."""


CollapseKind = Literal["length", "endless", "repetition", "entropy"]


class CollapseSign(Record):
    """Sign that a student's rollouts collapsed in its training."""

    kind: CollapseKind
    step: int
    """Optimiser steps done when it was certain."""
    message: str
    """What was measured, with the keys of the thresholds: a sentence without its stop."""
    remedies: tuple[str, ...] = ()
    """Remedies in the order to try them, as in ``Failure``."""

    def told(self) -> str:
        """Return the step, the message, and what to try."""
        return with_remedies(f"at step {self.step} {self.message}", self.remedies)


class Progress(Record):
    """One line of a job's progress file."""

    time: float
    """Seconds since the epoch, by the worker's clock."""
    phase: str
    """Current activity of the job: ``load``, ``train``, ``evaluate``, …"""
    step: int | None = None
    """Optimiser steps done."""
    max_steps: int | None = None
    metrics: dict[str, float] = {}
    """Points of the training curve at ``step``: ``loss``, ``learning_rate``, …"""
    collapse: tuple[CollapseSign, ...] = ()
    """Signs of collapse that this point makes certain."""
    warnings: tuple[str, ...] = ()
    """Warnings about the training at this point, for the user."""
    interim: IntermediateScore | None = None
    seconds_before: float = 0.0
    """Seconds of the steps that an earlier attempt did, where a training resumes from them."""


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
    dtype: ScoringDtype | None = None
    """Precision that the model was scored in: two scores compare only if it is the same. None in
    studies that declared none: that of the weights, or of the training's autocast."""
    engine: ScoringEngine = Field(default="transformers", exclude_if=lambda e: e == "transformers")
    """What computed answers and log-probabilities: two scores compare only if it is the same. Files
    lack it where it is the default, as those of earlier versions do."""
    batch_size: int | None = None
    """Documents scored at a time, where ``evaluation.batch_size`` of them did not fit into
    memory."""


IDLE_SERVERS = "idle_servers"
"""Part of a job's cost: servers while no job used them."""


def server_part(role: str) -> str:
    """Return the part of a job's cost that is the server of a role, while jobs used it."""
    return f"{role}_server"


class Cost(Record):
    """Cost of a job, measured by itself."""

    steps: int = 0
    """Optimiser steps."""
    trained_tokens: int = 0
    """Tokens that the loss was taken over."""
    generated_tokens: int = 0
    """Tokens that the student sampled."""
    device_seconds: float = 0.0
    """Wall seconds on the job's device, from model loading to the last score; of several devices
    all of theirs. Of a trial that was interrupted: what its last attempt took, and the steps that
    it resumed from."""
    seconds: dict[str, float] = {}
    """The parts, in device-seconds: ``load``, ``rollout``, ``teacher``, ``student``, ``optimiser``,
    ``diagnostics``, ``checkpoint``, ``evaluation``."""
    served: dict[str, float] = Field(default={}, exclude_if=operator.not_)
    """Seconds in which the job waited for each served model, or had it asked while it computed, by
    its role: ``teacher``, ``student``."""
    servers: dict[str, float] = Field(default={}, exclude_if=operator.not_)
    """Device-seconds of the servers of served models that the job pays for, by role. They are part
    of ``device_seconds``, and of ``seconds`` as ``teacher_server`` and ``student_server`` (while
    jobs used them) and ``idle_servers``. They follow from the whole study, so that they are in a
    study's record and not in a job's own outcome."""

    @property
    def own_seconds(self) -> float:
        """Device-seconds on the job's own devices."""
        return self.device_seconds - sum(self.servers.values())

    def training_seconds(self) -> float:
        """Return the seconds that grow with the steps of a training.

        Those of servers, while jobs used them, count for the part of the job that training took.
        """
        parts = ("rollout", "teacher", "student", "optimiser")
        own = sum(self.seconds.get(part, 0.0) for part in parts)
        served = sum(self.seconds.get(server_part(role), 0.0) for role in self.servers)
        return own + served * own / max(self.own_seconds, own) if own else 0.0

    def on(self, devices: int) -> Cost:
        """Return the cost of a job that took as long on so many devices."""
        return self.model_copy(
            update={
                "device_seconds": self.device_seconds * devices,
                "seconds": {part: value * devices for part, value in self.seconds.items()},
            }
        )


class Rollouts(Record):
    """Statistics of what a student sampled in its training: means over the whole training."""

    on_policy_share: float
    """Share of the micro-batches that were on-policy: what ``lmbda`` came to."""
    length: float | None = None
    """Tokens of a rollout; None if there were none."""
    truncated_share: float | None = None
    """Share of the rollouts that ``max_new_tokens`` cut; None, as all that follow, without
    rollouts, in old records, or if the trainer does not report it."""
    ended_share: float | None = None
    """Share of the rollouts that an end token ended."""
    repetition: float | None = None
    """Mean share of an answer's 4-grams that repeat an earlier one, of answers with 4 tokens."""
    student_entropy: float | None = None
    """Nats a token, at temperature 1."""
    teacher_entropy: float | None = None
    """Nats a token, at the same positions; None of a served teacher, too."""
    teacher_logprob: float | None = None
    """Log-probability of the student's tokens under the teacher, nats a token."""
    logprob_diff: float | None = left_out_if_none()
    """Mean absolute difference between the log-probabilities of the student's tokens in the engine
    that sampled them and in the training, in nats; None if the engine does not report them."""
    logprob_diff_max: float | None = left_out_if_none()
    """Largest of these differences."""
    logprob_diff_limit: float | None = left_out_if_none()
    """Mean difference above which the trial warned."""


class Outcome(Record):
    """Outcome of a job: the truth about how it ended."""

    schema_version: int = SCHEMA_VERSION
    state: Literal["completed", "pruned", "failed"]
    failure: Failure | None = None
    scores: Scores | None = None
    test_scores: Scores | None = None
    """Scores of a confirmation run on the test suite."""
    data: DataSummary | None = None
    """Summary of the data, from the ``data`` step."""
    examination: DataCheck | None = None
    """Findings of the ``data`` step, even if it failed."""
    pair: PairDiagnosis | None = None
    """Diagnosis of teacher and student, from the ``pair`` step."""
    engines: EngineChoice | None = left_out_if_none()
    """What samples the study's rollouts, from the ``engines`` step."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""
    held_out: str | None = None
    """Fixed sequences from the ``teacher`` step, as in ``StudyInputs``."""
    start_weights: str | None = left_out_if_none()
    """Folder of the starting student's weights, from the ``start`` step: what vLLM starts with."""
    cached: tuple[str, ...] = ()
    """Entries that the preparation left in the cache for the trials."""
    interim: IntermediateScore | None = None
    """Last intermediate score of a trial that was pruned."""
    cost: Cost = Cost()
    earlier_seconds: float = 0.0
    """Device-seconds of the attempts before, which ran out of memory; not in ``cost``."""
    curve: dict[str, float] = {}
    """The last training point: loss, on-policy share, rollout length, …"""
    rollouts: Rollouts | None = None
    """Rollouts over the whole training, of a trial that was not ended by a failure."""
    collapse: tuple[CollapseSign, ...] = ()
    """Signs of collapse in the training, by step."""
    attempt: int = 1
    started: float
    """Start in seconds since the epoch."""
    finished: float
    host: str = ""
    device: str = ""
    devices: int = 1
    """Number of devices that the job ran on."""
    sharing: int = left_out_if_alone()
    """Most jobs that ran on its GPU at a time, itself included: its seconds depend on the others,
    if there were any."""
    versions: dict[str, str] = {}
    """Package versions in the process that did the work."""
    model_parameters: int | None = None
    """Parameters of the scored model."""
    peak_bytes: int | None = None
    """The most memory that the job took: of its GPU, else its process's main memory, libraries
    included; None in old records."""

    @property
    def wall_seconds(self) -> float:
        """Wall seconds of the last attempt, with the steps that it resumed from."""
        return self.cost.own_seconds / self.devices
