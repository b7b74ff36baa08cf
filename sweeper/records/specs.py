"""Specs of jobs: everything that determines their results."""

from __future__ import annotations

import operator
from typing import Annotated, Literal

from pydantic import Field

from sweeper.config.base import Scalar
from sweeper.config.collapse import CollapseConfig
from sweeper.config.confirm import CostMeasure
from sweeper.config.data import DataConfig
from sweeper.config.evaluation import EvaluationConfig, ScoringEngine
from sweeper.config.judgement import Judged
from sweeper.config.lengths import LengthLimits
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.preparation import TeacherOutputsConfig, WarmStartConfig
from sweeper.config.rollouts import RolloutEngine
from sweeper.config.settings import Method, MethodSettings, TrainingConfig
from sweeper.config.suite import SuiteConfig, SuiteTask
from sweeper.records.base import SCHEMA_VERSION, Record, left_out_if_alone
from sweeper.records.engines import EngineRequest
from sweeper.records.model_shapes import ShapeRequest
from sweeper.records.pair import PairRequest
from sweeper.records.serving import ServedModel


class SuiteSpec(Record):
    """A suite with the folders of its task files made absolute."""

    config: SuiteConfig
    task_directories: tuple[str, ...]
    content_hash: str
    """SHA-256 of the suite, its task files and the engine that computes its scores, unless that is
    transformers: two scores compare only if it is the same."""


class StudyInputs(Record):
    """Inputs that all jobs of a study share: models, data, and the making of the common start."""

    study: str
    seed: int
    """Seed of the study."""
    teacher: ModelConfig
    student: StudentConfig
    warm_start: WarmStartConfig | None
    data: DataConfig
    data_files: tuple[str, ...] = ()
    """Absolute paths, when the rows come from local files."""
    model_folders: dict[str, str] = {}
    """Absolute folders of local models, by the names that the study gives them."""
    teacher_outputs: TeacherOutputsConfig
    training: TrainingConfig
    rollout_engine: RolloutEngine = "sweeper"
    """What samples rollouts; with ``rollouts.engine: auto`` what the preparation has found."""
    evaluation: EvaluationConfig
    collapse: CollapseConfig = CollapseConfig()
    references: bool = True
    """True if an arm, or the warm start, trains on the reference answers."""
    data_fingerprint: str | None = None
    """Fingerprint of the examples, once they have been read: a job that finds its sequences in the
    cache need not read them again."""
    training_rows: int | None = None
    """Rows that are trained on, once they have been read: epochs are counted in them."""
    held_out: str | None = None
    """Path of the study's fixed sequences, once they have been made: all students are compared with
    the teacher on them."""
    cache: str
    """The content-addressed cache's directory."""
    teacher_states_gib: float = 0.0
    """GiB that the teacher's stored hidden states may take there."""
    cache_threads: int = 1
    """CPU threads that cached values are computed with, fixed when the study starts: a changed
    number of workers must not change the common start."""


class Resources(Record):
    """Resources that a job runs on."""

    directory: str
    device: str
    """A torch device: ``cpu``, ``cuda:0``, ``mps``."""
    devices: tuple[str, ...] = ()
    """Devices of a trial on several, one for each of its processes."""
    rank: int = 0
    """Rank of this process among them; only the first reports."""
    shard_teacher: bool = False
    """True if the teacher's layers are divided among them."""
    shard_student: bool = False
    """True if the student, its gradients and its optimiser's states are divided."""
    threads: int
    """CPU threads of each process."""
    served_teacher: ServedModel | None = None
    """Where the study's server of the teacher answers, if it has one."""
    served_student: ServedModel | None = None
    """Where the server on this device answers that holds students' weights, if there is one."""
    node: str = Field(default="", exclude_if=operator.not_)
    """Id of the cluster's node that the job runs on; empty: the coordinator's machine, or any."""
    gpu_students: dict[str, ServedModel] = Field(default={}, exclude_if=operator.not_)
    """Servers of students' weights on the node's GPUs, by the GPUs' names, for a job that learns
    its own GPU when it starts."""
    sharing: int = left_out_if_alone()
    """Most jobs that run on the job's GPU at a time, itself included; 1 on other devices."""
    served_memory: float = Field(default=0.0, exclude_if=operator.not_)
    """Share of its GPU's memory that servers next to it take."""
    memory_gib: float | None = None
    """The main memory that the job may take, its processes together."""

    @property
    def processes(self) -> int:
        """Number of the job's processes."""
        return max(1, len(self.devices))

    def alone(self) -> Resources:
        """Return the same place for a job of one process."""
        return self.model_copy(update={"devices": ()})


class IntermediatePoint(Record):
    """A point of the training at which a student is scored on a part of the selection suite."""

    index: int
    """Position among the study's points, from 0."""
    step: int
    """Optimiser steps done."""
    documents: int
    """Documents of each task."""


class ConfirmationRun(Record):
    """A winner of the search that is trained again, for the verdict."""

    arm: str
    trial: int
    """The winner's number in the search."""
    seed: int
    """Position among the seeds that all winners are trained with, from 0."""
    at: CostMeasure
    """Cost measure that is equal to that of the other arms' winners."""
    max_steps: int
    """Optimiser steps."""


class KeptStudent(Record):
    """Place where a trial leaves its student, for use."""

    directory: str
    merged: bool
    """True if an adapter's weights are added to those below it."""
    base: str
    """Model below an adapter that is not merged: a hub id or a directory."""
    reference: str
    """File for what the trained student answers to a few texts, so that the one that is loaded
    from ``directory`` can be compared with it."""


class EnqueuedSettings(Record):
    """Settings that a trial starts with by ``start_with``; the sampler chooses the others."""

    settings: dict[str, Scalar]
    study: str | None = None
    """Earlier study that has a trial of these settings; None: the study file gives them."""
    arm: str | None = None
    """That trial's arm."""
    trial: int | None = None
    """That trial's number."""
    score: float | None = None
    """That trial's score in the earlier study."""
    suite_hash: str | None = None
    """Hash of the selection suite of that score."""
    engine: ScoringEngine = Field(default="transformers", exclude_if=lambda e: e == "transformers")
    """What computed that score."""
    tasks: tuple[SuiteTask, ...] = ()
    """Tasks of that suite, and of those that chose what that trial's search started with; none in
    old records."""

    def source(self) -> str:
        """Return where the settings come from, in words: ``pilot gkd #4``."""
        return f"{self.study} {self.arm} #{self.trial}" if self.study else "the study file"


class TrialSpec(Record):
    """One trial: everything that determines its result."""

    kind: Literal["trial"] = "trial"
    schema_version: int = SCHEMA_VERSION
    origin: StudyInputs
    arm: str
    method: Method
    number: int
    """The trial's number in its arm, from 0; also Optuna's."""
    attempt: int = 1
    """Number of the attempt, from 1; grows when a run of the same trial was lost."""
    seed: int
    params: dict[str, Scalar]
    """Sampled parameters."""
    enqueued: EnqueuedSettings | None = None
    """Settings that were given for some or all of ``params``; None: all were sampled."""
    settings: MethodSettings
    """Training and method settings, everything resolved."""
    lora: dict[str, Scalar] = {}
    """The trial's own values over the student's adapter: ``r``, ``alpha``, ``dropout``."""
    teacher: dict[str, Scalar] = {}
    """The trial's own values over the teacher: ``model``, ``dtype``, ``quantization``,
    ``init_kwargs.NAME``."""
    suite: SuiteSpec
    interim: tuple[IntermediatePoint, ...] = ()
    """Points of the training at which the student is scored, and waits for a decision."""
    earlier_seconds: float = 0.0
    """Device-seconds of attempts that ran out of memory."""
    final: ConfirmationRun | None = None
    """Confirmation run of a winner; ``number`` counts these by arm."""
    test_suite: SuiteSpec | None = None
    """Further suite that a winner is scored on."""
    keep: KeptStudent | None = None
    """Place for the trained student; by default only results are kept."""
    place: Resources


Step = Annotated[
    str,
    Field(
        pattern=r"^(data|answers|teacher|start|student|engines|test_teacher|test_student|pair|written"
        r"|teacher@.+)$"
    ),
]
"""Name of a step of the preparation; ``teacher@ARM``: the teacher of an arm with its own."""


class Rehearsal(Record):
    """A training that a study may run, for a look at what it is made of."""

    key: tuple[str, ...]
    """Key of the study file to blame."""
    method: Method
    settings: MethodSettings
    """Training and method settings, everything resolved."""
    lora: dict[str, Scalar] = {}
    """The trial's own values over the student's adapter."""
    teacher: dict[str, Scalar] = {}
    """The trial's own values over the teacher."""


class PreparationSpec(Record):
    """One step that is done once per study, before its trials.

    ``data`` reads and checks data, tokenizers and suites; ``teacher`` scores the teacher and stores
    its outputs, which ``answers`` may do sooner, on another device; ``student`` makes the starting
    student and scores it; ``start`` writes its weights for servers of students' weights;
    ``teacher@ARM`` does for the arm's own teacher what ``teacher`` does for the study's.
    ``engines`` tests what samples rollouts, and chooses one.
    After the search ``test_teacher`` and ``test_student`` score teacher and start on the test
    suite. ``pair``, which only ``sweeper check --probe`` asks for, compares both on each other's
    answers. ``written``, which only ``sweeper export`` asks for, scores a student from the folder
    that it was saved in.
    """

    kind: Literal["preparation"] = "preparation"
    schema_version: int = SCHEMA_VERSION
    step: Step
    attempt: int = 1
    origin: StudyInputs
    needs_teacher_outputs: bool
    stock_engine: bool = False
    """True if an arm runs a trainer of TRL's."""
    reads: tuple[bool, ...] = ()
    """Sequences that ``teacher`` should read once for all trials: the references (False), its own
    answers (True)."""
    judged: Judged | None = None
    """What trainings read of a served teacher's judgement; ``data`` checks it, and ``teacher`` asks
    the server whether it can be had. None if no arm reads any."""
    extra_arguments: dict[str, tuple[Method, tuple[str, ...]]] = {}
    """Names below ``extra``, by arm, in the records of old versions."""
    rehearsals: tuple[Rehearsal, ...] = ()
    """Trainings whose parts ``data`` builds."""
    elsewhere: bool = False
    """True if trials run on machines whose devices this step does not see."""
    shards: tuple[Literal["shard_teacher", "shard_student"], ...] = ()
    """Keys of ``compute`` by which models are divided."""
    optimisers: dict[str, tuple[str, ...]] = {}
    """Optimisers of each arm, whose packages ``data`` looks for."""
    reference_users: tuple[str, ...] = ()
    """What trains on the reference answers, which ``data`` names where there are none."""
    own_attentions: dict[str, tuple[str, ...]] = {}
    """Attentions that arms give their teachers, by arm."""
    own_teachers: dict[str, tuple[str, ...]] = {}
    """Teachers that arms have instead of the study's, by arm."""
    own_lengths: dict[str, LengthLimits] = {}
    """Limits of what these teachers read, by arm."""
    own_teacher: dict[str, Scalar] = {}
    """Settings of an arm over the study's teacher; none in steps that are not about one."""
    lengths: tuple[LengthLimits, ...] = ()
    """Limits of the sequences that are trained on and sampled; checked by ``data``."""
    suite: SuiteSpec
    test_suite: SuiteSpec | None
    """Test suite, read by ``data`` only, and only to check that no prompt is in two places."""
    shapes: tuple[ShapeRequest, ...] = ()
    """Models that ``data`` should find the shapes of."""
    engines: EngineRequest | None = None
    """What ``engines`` should test."""
    pair: PairRequest | None = None
    """What ``pair`` should sample."""
    written: KeptStudent | None = None
    """Student that ``written`` loads and scores."""
    place: Resources


JobSpec = Annotated[TrialSpec | PreparationSpec, Field(discriminator="kind")]
