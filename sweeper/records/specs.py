"""What a job is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sweeper.config.base import Scalar
from sweeper.config.confirm import CostMeasure
from sweeper.config.lengths import LengthLimits
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.settings import Method, MethodSettings, TrainingConfig
from sweeper.config.study import DataConfig, EvaluationConfig, TeacherOutputsConfig, WarmStartConfig
from sweeper.config.suite import SuiteConfig
from sweeper.records.base import SCHEMA_VERSION, Record
from sweeper.records.model_shapes import ShapeRequest


class SuiteSpec(Record):
    """A suite with the folders of its task files made absolute."""

    config: SuiteConfig
    task_directories: tuple[str, ...]
    content_hash: str
    """SHA-256 of the suite and its task files: two scores compare only if it is the same."""


class StudyInputs(Record):
    """What every job of a study shares: models, data, and how the common start is made."""

    study: str
    seed: int
    """The study's seed."""
    teacher: ModelConfig
    student: StudentConfig
    warm_start: WarmStartConfig | None
    data: DataConfig
    data_files: tuple[str, ...] = ()
    """Absolute paths, when the rows come from local files."""
    teacher_outputs: TeacherOutputsConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    data_fingerprint: str | None = None
    """Of the examples, once they have been read: a job that finds its sequences in the cache need
    not read them again."""
    held_out: str | None = None
    """Where the study's fixed sequences lie, on which all students are compared with the teacher,
    once they have been made."""
    cache: str
    """The content-addressed cache's directory."""
    teacher_states_gib: float = 0.0
    """What the teacher's stored hidden states may take there."""
    cache_threads: int = 1
    """CPU threads that cached values are computed with, fixed when the study starts: a changed
    number of workers must not change the common start."""


class Resources(Record):
    """Where a job runs."""

    directory: str
    device: str
    """A torch device: ``cpu``, ``cuda:0``, ``mps``."""
    devices: tuple[str, ...] = ()
    """Of a trial on several devices all of them, one for each of its processes."""
    rank: int = 0
    """Which of these processes this one is; only the first reports."""
    shard_teacher: bool = False
    """Whether the teacher's layers are divided among them."""
    shard_student: bool = False
    """Whether the student, its gradients and its optimiser's states are."""
    threads: int
    """CPU threads of each process."""
    memory_gib: float | None = None
    """The main memory that the job may take, its processes together."""

    @property
    def processes(self) -> int:
        """How many processes the job has."""
        return max(1, len(self.devices))

    def alone(self) -> Resources:
        """The same for a job of one process."""
        return self.model_copy(update={"devices": ()})


class IntermediatePoint(Record):
    """A point of the training at which a student is scored on a part of the selection suite."""

    index: int
    """Among the study's points, from 0."""
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
    """Among the seeds that all winners are trained with, from 0."""
    at: CostMeasure
    """What it has in common with the other arms' winners."""
    max_steps: int
    """Optimiser steps."""


class KeptStudent(Record):
    """Where a trial leaves its student, for use."""

    directory: str
    merged: bool
    """Whether an adapter's weights are added to those below it."""
    base: str
    """What an adapter that is not merged lies on: a hub id or a directory."""


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
    """Counts from 1; grows when a run of the same trial was lost."""
    seed: int
    params: dict[str, Scalar]
    """What was sampled."""
    settings: MethodSettings
    """Training and method settings, everything resolved."""
    lora: dict[str, Scalar] = {}
    """The trial's own values over the student's adapter: ``r``, ``alpha``, ``dropout``."""
    teacher: dict[str, Scalar] = {}
    """The trial's own values over the teacher: ``model``, ``dtype``, ``quantization``,
    ``init_kwargs.NAME``."""
    suite: SuiteSpec
    interim: tuple[IntermediatePoint, ...] = ()
    """Where in its training the student is scored, and waits for word whether to go on."""
    earlier_seconds: float = 0.0
    """What attempts that ran out of memory took on their devices."""
    final: ConfirmationRun | None = None
    """Of a winner that is trained again; ``number`` counts these by arm."""
    test_suite: SuiteSpec | None = None
    """What a winner is scored on as well."""
    keep: KeptStudent | None = None
    """By default only results are kept."""
    place: Resources


class PreparationSpec(Record):
    """One step that is done once per study, before its trials.

    ``data`` reads and checks data, tokenizers and suites; ``teacher`` scores the teacher and stores
    its outputs; ``student`` makes the starting student and scores it. After the search
    ``test_teacher`` and ``test_student`` score both on the test suite.
    """

    kind: Literal["preparation"] = "preparation"
    schema_version: int = SCHEMA_VERSION
    step: Literal["data", "teacher", "student", "test_teacher", "test_student"]
    attempt: int = 1
    origin: StudyInputs
    needs_teacher_outputs: bool
    reads: tuple[bool, ...] = ()
    """What ``teacher`` should read once for all trials: the references (False), its own answers
    (True)."""
    extra_arguments: dict[str, tuple[Method, tuple[str, ...]]] = {}
    """By arm, the names below ``extra`` that TRL's configuration class must know."""
    own_teachers: dict[str, tuple[str, ...]] = {}
    """By arm, the teachers that it has instead of the study's."""
    lengths: tuple[LengthLimits, ...] = ()
    """What limits the sequences that are trained on and sampled; checked by ``data``."""
    suite: SuiteSpec
    test_suite: SuiteSpec | None
    """Read by ``data`` only, and only to check that no prompt is in two places."""
    shapes: tuple[ShapeRequest, ...] = ()
    """Models that ``data`` should find the shapes of."""
    place: Resources


JobSpec = Annotated[TrialSpec | PreparationSpec, Field(discriminator="kind")]
