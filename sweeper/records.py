"""The records that cross walls: what a job is told, what it reports, how it ended.

All are frozen, plain and JSON. Whoever reads an old record checks ``schema_version``.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sweeper.config.base import Scalar
from sweeper.config.confirm import CostMeasure
from sweeper.config.lengths import LengthLimits
from sweeper.config.models import ModelConfig, Quantization, StudentConfig
from sweeper.config.settings import Method, MethodSettings, TrainingConfig
from sweeper.config.study import DataConfig, EvaluationConfig, TeacherOutputsConfig, WarmStartConfig
from sweeper.config.suite import SuiteConfig

SCHEMA_VERSION = 1


def derive_seed(study_seed: int, *labels: str | int) -> int:
    """A seed in [0, 2**31) for one purpose: a hash of the study's seed and the labels.

    Roles that draw from different seeds cannot disturb each other.
    """
    text = "/".join(str(part) for part in (study_seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


class Record(BaseModel):
    """A frozen JSON record."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SuiteSpec(Record):
    """A suite with the folders of its task files made absolute."""

    config: SuiteConfig
    task_directories: tuple[str, ...]
    content_hash: str
    """SHA-256 of the suite and its task files: two scores compare only if it is the same."""


class Origin(Record):
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


class Place(Record):
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
    threads: int
    """CPU threads of each process."""
    memory_gib: float | None = None
    """The main memory that the job may take, its processes together."""

    @property
    def processes(self) -> int:
        """How many processes the job has."""
        return max(1, len(self.devices))

    def alone(self) -> Place:
        """The same for a job of one process."""
        return self.model_copy(update={"devices": ()})


Autocast = Literal["bfloat16", "float16"]


class ShapeRequest(Record):
    """A model whose shape is asked for."""

    model: ModelConfig | StudentConfig
    """A teacher, or a student; in this order a record of a teacher is read as one."""
    autocast: Autocast | None
    """What it computes in, if not in the type of its weights."""

    def key(self) -> str:
        """The same for equal requests."""
        return self.model_dump_json()


class InterimPoint(Record):
    """A point of the training at which a student is scored on a part of the selection suite."""

    index: int
    """Among the study's points, from 0."""
    step: int
    """Optimiser steps done."""
    documents: int
    """Documents of each task."""


class Final(Record):
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
    origin: Origin
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
    interim: tuple[InterimPoint, ...] = ()
    """Where in its training the student is scored, and waits for word whether to go on."""
    earlier_seconds: float = 0.0
    """What attempts that ran out of memory took on their devices."""
    final: Final | None = None
    """Of a winner that is trained again; ``number`` counts these by arm."""
    test_suite: SuiteSpec | None = None
    """What a winner is scored on as well."""
    keep: KeptStudent | None = None
    """By default only results are kept."""
    place: Place


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
    origin: Origin
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
    place: Place


JobSpec = Annotated[TrialSpec | PreparationSpec, Field(discriminator="kind")]


INTERIM_PHASE = "interim score"
"""The phase of a job that scores its student in the middle of the training."""


class Interim(Record):
    """A student's score in the middle of its training."""

    index: int
    """The point's; see ``InterimPoint``."""
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
    interim: Interim | None = None
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


FailureKind = Literal[
    "out_of_memory", "diverged", "timeout", "stalled", "lost", "bad_input", "full_disk", "bug"
]


class Failure(Record):
    """Why a job did not complete."""

    kind: FailureKind
    message: str
    """One line, for people."""
    key: tuple[str, ...] = ()
    """The key of the study file that is to blame, if one is."""
    remedies: tuple[str, ...] = ()
    """What to try, in the order to try it: each goes on from "Try"."""
    details: str = ""
    """The traceback, or the end of the log."""

    def told(self) -> str:
        """The message, and what to try."""
        if not self.remedies:
            return self.message
        *most, last = self.remedies
        listed = f"{', '.join(most)} or {last}" if most else last
        return f"{self.message.rstrip('.')}. Try {listed}."


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


class Growth(Record):
    """Bytes that grow with the sequences that a model reads at a time."""

    fixed: float
    token: float
    """For each of their tokens."""
    pair: float
    """For each pair of tokens of one sequence: what attention keeps that is not fused."""

    def bytes(self, sequences: int, length: int) -> float:
        """What ``sequences`` of ``length`` tokens each take."""
        return self.fixed + sequences * length * (self.token + length * self.pair)


class Training(Record):
    """What a forward and a backward pass take, gradients of weights aside."""

    kept: Growth
    """Between the two."""
    peak: Growth
    """The most at any time."""


class ModelShape(Record):
    """How large a model is as it is loaded, and what reading with it takes."""

    parameters: int
    """All, an adapter's included."""
    embedding_parameters: int
    head_parameters: int
    """0 if they are those of the embeddings."""
    linear_parameters: int
    """Of the linear layers but the head: what quantization rounds."""
    adapter_parameters: int
    """Of an adapter on all linear layers, for each of its ranks."""
    trainable_parameters: int
    """0 of a teacher."""
    largest_trainable: int
    """Parameters of the largest tensor among these."""
    adapted: bool
    """Whether an adapter is trained instead of the model."""
    quantization: Quantization | None
    dtype_bytes: int
    """Of a weight that is not quantized."""
    trainable_bytes: int
    """Of a weight that is trained."""
    computing_bytes: int
    """Of a number that the linear layers give."""
    hidden_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    """Channels of a head."""
    vocabulary: int
    reading: Growth
    """The most that is alive while it reads, logits aside."""
    training: Training | None
    """Of a student."""
    checkpointed: Training | None
    """Of a student, with ``gradient_checkpointing``."""
    unforeseen: str | None = None
    """Why nothing can be said of the memory that it takes as it is loaded."""


class Lengths(Record):
    """How long some texts are, in tokens of the student's."""

    count: int
    percentiles: Annotated[tuple[int, ...], Field(min_length=101, max_length=101)]
    """From the 0th, which is the shortest, to the 100th, the longest."""

    @property
    def longest(self) -> int:
        """The most tokens that one of them has."""
        return self.percentiles[-1]

    def longer_than(self, limit: int) -> float:
        """The share of them that has more than ``limit`` tokens, in whole hundredths."""
        return sum(length > limit for length in self.percentiles[1:]) / 100


class TokenLengths(Record):
    """How long the training data are before anything is cut, and what ``max_length`` does."""

    max_length: int
    prompts: Lengths
    references: Lengths | None
    """None where there are none."""
    sequences: Lengths
    """Prompts with their references."""
    dropped: int
    """Prompts that leave no room for an answer."""
    cut: int
    """References that do not fit whole."""


class ScoredTask(Record):
    """What a task of a suite has a model read, as far as that decides the memory it takes."""

    task: str
    texts: int
    """How many there are."""
    tokens: int
    """Of the longest with its answer, at most as many as a model reads at once; about."""
    likelihoods: bool
    """Whether it is asked how likely texts are."""


class DataSummary(Record):
    """What the data step found."""

    rows: int
    """Rows read."""
    used: int
    """Rows that fit into ``max_length`` and are trained on."""
    fingerprint: str
    """SHA-256 of the prompts and completions."""
    source: str
    local: bool = False
    """Whether the source is a file or ships with the package, rather than on a hub."""
    prompt_tokens: float
    """Mean length of the prompts."""
    completion_tokens: float
    """Mean length of the references, 0 without any."""
    chat: bool
    """Whether prompts go through a chat template."""
    scored: tuple[ScoredTask, ...] = ()
    """The tasks of the suites; none in old records."""
    scored_tokens: int | None = None
    """In older records: of the longest document of the suites with its answer."""
    scored_likelihoods: bool = False
    """In older records: whether a task of the suites measures how likely a text is."""
    selection_documents: int | None = None
    """Of the selection suite; None in old records."""
    test_documents: int | None = None
    """Of the test suite; None without one."""
    lengths: TokenLengths | None = None
    """None in old records."""
    notes: tuple[str, ...] = ()
    """What a user should know: rows dropped, prompts repeated, …"""


class RowsSummary(Record):
    """The training data as rows, before any tokenizer."""

    rows: int
    source: str
    columns: tuple[str, ...]
    """What prompts and references are read from: two columns, one, or that of the messages."""
    references: int
    """Rows with a reference answer."""
    repeated: int
    """Prompts that stand there more than once."""


class TokenizerSummary(Record):
    """How texts become tokens."""

    tokens: int
    """Of the vocabulary that teacher and student share."""
    logits: int
    """Of either model, as they are compared."""
    chat: bool
    """Whether prompts go through a chat template."""
    template_note: str | None
    """How the teacher's template differs."""
    ends: tuple[str, ...]
    """The tokens that end an answer."""
    unended: int | None = None
    """References after which there is none of them; None where that is not known."""


class Examination(Record):
    """What the data step saw, part by part: what is wrong with one part hides no other.

    A part is None where it is wrong, or needs what is.
    """

    rows: RowsSummary | None = None
    tokenizer: TokenizerSummary | None = None
    data: DataSummary | None = None
    selection_documents: int | None = None
    """That the score is made of."""
    test_documents: int | None = None
    """The same of the test suite."""
    test_scored: int | None = None
    """Of the test suite, with those of tasks of weight 0; None in old records."""
    overlap_free: bool = False
    """Whether it is known that no prompt is in two places."""
    overlong: tuple[str, ...] = ()
    """Texts that are longer than a model was made for, in words."""
    shapes: tuple[ModelShape, ...] = ()
    """Of the models that were asked for."""
    problems: tuple[Failure, ...] = ()
    """Everything that keeps the study from running."""


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
    examination: Examination | None = None
    """From the ``data`` step, even if it failed."""
    notes: tuple[str, ...] = ()
    """What a user should know of it."""
    held_out: str | None = None
    """From the ``teacher`` step: see ``Origin``."""
    cached: tuple[str, ...] = ()
    """From the preparation: what it left in the cache for the trials."""
    interim: Interim | None = None
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
