"""How much memory a training takes at its peak: arithmetic on the shapes of its models.

Models, gradients and the optimiser's states lie there all the time; beside them comes what a moment
needs: a rollout, the pass forward and back, the optimiser's step. The peak is that of the worst
moment. ``docs/memory.md`` has each term with its source, and how near it comes to what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from sweeper.records import ModelShape, Record
from sweeper.records.remedies import Setup

GIB = 2**30
EXACT = 4
"""Bytes of a float32."""
LOGITS_BUDGET = 256 * 2**20
"""``divergence.BUDGET``."""
ROWS_OF_A_TILE, COLUMNS_OF_A_TILE = 4096, 32768
"""TRL's fused head takes so many positions and tokens of the vocabulary at a time."""
SPARE_COLUMNS = 64
"""``decoding._SPARE_COLUMNS``."""

Part = Literal[
    "teacher",
    "student",
    "gradients",
    "optimiser",
    "activations",
    "logits and loss",
    "rollouts",
    "scoring",
    "libraries",
]
Moment = Literal["rollout", "forward and backward", "optimiser step", "scoring"]
DeviceKind = Literal["cpu", "cuda", "mps"]


class Peak(Record):
    """The bytes of a training at its worst moment."""

    moment: Moment
    parts: dict[Part, float]
    """By what they are for; nothing of zero bytes."""

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Scoring:
    """How a student is scored on a task.

    Attributes:
        documents: At a time.
        tokens: Of the longest, its answer included.
        likelihoods: Whether the task asks how likely a text is: that takes its logits.
    """

    documents: int
    tokens: int
    likelihoods: bool


@dataclass(frozen=True)
class Sizes:
    """The most tokens in the data, as they are cut to ``max_length``.

    Attributes:
        prompt: Of a prompt.
        answer: Of an answer that is not sampled.
        text: Of a prompt and its answer together.
        scoring: Of the suites' tasks; none to leave scoring out.
    """

    prompt: int
    answer: int
    text: int
    scoring: tuple[Scoring, ...] = ()


def moments(
    setup: Setup, student: ModelShape, teacher: ModelShape | None, sizes: Sizes, kind: DeviceKind
) -> list[Peak]:
    """The moments of a training of which one is the worst.

    Args:
        setup: The training.
        student: As it is trained.
        teacher: As it is loaded; None if it is not.
        sizes: Of its sequences.
        kind: Of its device.
    """
    training = _Training(setup, student, teacher, sizes, kind)
    found = [training.passes(), training.step()]
    if training.samples:
        found.append(training.rollout())
    found += [training.scoring(task) for task in sizes.scoring]
    return found


def worst(found: Sequence[Peak]) -> Peak:
    """The moment that takes most."""
    return max(found, key=lambda one: one.total)


def weight_bytes(shape: ModelShape, *, autocast: bool = False) -> float:
    """What a model's weights take.

    Args:
        shape: The model's.
        autocast: Whether what is rounded at each use anyway is kept rounded
            (``models.store_for_autocast``).
    """
    rounded, width = shape.linear_parameters, float(shape.dtype_bytes)
    if shape.quantization is not None:
        # A float32 for each block of 64 weights in 4 bits; for each row in 8 bits, which is little.
        width = {"int8": 1.0, "int4": 0.5 + EXACT / 64}[shape.quantization]
    elif autocast:
        rounded, width = rounded + shape.head_parameters, float(shape.computing_bytes)
    return rounded * width + (shape.parameters - rounded) * shape.dtype_bytes


def state_bytes(optimiser: str) -> float:
    """What an optimiser keeps, in bytes of a trained weight for each of its bytes.

    Args:
        optimiser: transformers' name for it; those that are not known are taken for Adam's like.
    """
    if optimiser.startswith(("sgd", "adafactor")):
        return 0.0
    moments = 1.0 if optimiser.startswith(("lion", "rmsprop", "adagrad")) else 2.0
    return moments * (0.25 if "8bit" in optimiser else 0.125 if "4bit" in optimiser else 1.0)


class _Training:
    """One training, and what its moments take."""

    def __init__(
        self,
        setup: Setup,
        student: ModelShape,
        teacher: ModelShape | None,
        sizes: Sizes,
        kind: DeviceKind,
    ) -> None:
        self.settings = settings = setup.settings
        self.student, self.teacher, self.kind = student, teacher, kind
        self.distils = teacher is not None
        self.stock = settings.engine == "trl"
        self.samples = setup.method == "gkd" and settings.lmbda > 0
        self.rows = settings.per_device_train_batch_size
        self.prompt = sizes.prompt
        # Prompt and answer together, and the answer, of rollouts and of what the data have.
        longest = [(0, 0)]
        if self.samples:
            longest += [(sizes.prompt + settings.max_new_tokens, settings.max_new_tokens)]
        if setup.method != "gkd" or settings.lmbda < 1:
            longest += [(sizes.text, sizes.answer)]
        self.length = max(text for text, _ in longest)
        self.answer = min(max(answer for _, answer in longest), self.length - 1)
        autocast = settings.bf16 or settings.fp16
        self.rounds = autocast and not setup.shard_student
        whole = student.trainable_parameters * student.trainable_bytes
        self.parts = setup.devices if setup.shard_student else 1
        self.gradients = whole / self.parts
        # Beside a copy's gradients as many again, which are on their way to the other devices.
        self.sent = whole if setup.devices > self.parts else 0.0
        # What a divided student has whole: everything, to sample and to be scored; while it reads,
        # some layers, and what is outside of them.
        self.together = self.reading = 0.0
        if self.parts > 1:
            self.together = weight_bytes(student)
            layer = student.linear_parameters / student.layers
            outside = student.embedding_parameters + student.head_parameters
            # What is outside comes as one message, from which its weights are copied.
            self.reading = (2 * outside + LAYERS_TOGETHER * layer) * student.dtype_bytes
        self.always: dict[Part, float] = {
            "teacher": weight_bytes(teacher, autocast=autocast and not self.stock)
            if teacher
            else 0.0,
            # A heap can use little of what layers that are cut out leave behind.
            "student": weight_bytes(student) / self.parts
            + (student.cut_parameters * student.dtype_bytes if kind == "cpu" else 0.0),
            "optimiser": self.gradients * state_bytes(settings.optim),
            "libraries": LIBRARIES[kind],
        }
        self.head = student.vocabulary * student.hidden_size
        """Parameters of the student's, tied or not."""

    def rollout(self) -> Peak:
        """Sampling: the keys and values of all texts, and one pass of the student."""
        settings, shape = self.settings, self.student
        rows = waiting = self.rows
        if not self.stock:
            waiting = self.rows * settings.gradient_accumulation_steps
            rows = min(settings.rollout_batch_size or waiting, waiting)
        columns = self.prompt + settings.max_new_tokens + SPARE_COLUMNS * (waiting > rows)
        number = shape.computing_bytes
        cache = self._cache(rows * columns)
        # A layer at a time, its keys and values are repeated for all heads.
        repeated = 2 * rows * columns * shape.heads * shape.head_size * number
        reading = shape.reading.bytes(rows, self.prompt)
        logits = rows * shape.vocabulary * (number + 2 * EXACT)
        used = cache + max(reading, repeated + logits)
        return self._moment("rollout", rollouts=used + self.together)

    def scoring(self, task: Scoring) -> Peak:
        """Scoring by lm-eval, beside what Python has not collected of the training yet."""
        shape, texts = self.student, task.documents * task.tokens
        cache = self._cache(texts)
        reading = shape.reading.bytes(task.documents, task.tokens)
        positions = texts if task.likelihoods else task.documents
        # The logits, and their logarithms.
        logits = 2 * positions * shape.vocabulary * shape.dtype_bytes
        return self._moment("scoring", scoring=cache + max(reading, logits) + self.together)

    def _cache(self, tokens: int) -> float:
        """The student's keys and values."""
        shape = self.student
        channels = shape.layers * shape.key_value_heads * shape.head_size
        return 2 * tokens * channels * shape.computing_bytes

    def passes(self) -> Peak:
        """Forward, loss and backward, of the micro-batch after others of its window."""
        settings, shape = self.settings, self.student
        grown = shape.checkpointed if settings.gradient_checkpointing else shape.training
        assert grown is not None
        kept = grown.kept.bytes(self.rows, self.length)
        if self.kind == "cpu" and shape.training is not None:
            # What is kept lies scattered, and the heap can use little of what is freed between.
            kept = max(kept, SCATTERED * shape.training.kept.bytes(self.rows, self.length))
        highest = grown.peak.bytes(self.rows, self.length)
        if settings.gradient_checkpointing and self.rounds and not shape.adapted:
            # Autocast keeps what it has rounded until the loss is there.
            kept += shape.linear_parameters * shape.computing_bytes
        head = 0.0 if shape.adapted else self.head * shape.trainable_bytes
        earlier = self.gradients if settings.gradient_accumulation_steps > 1 else 0.0
        beginning, after = self._loss()
        found = [
            self._moment(
                "forward and backward",
                activations=kept + self.reading,
                gradients=earlier,
                loss=beginning,
            ),
            self._moment(
                "forward and backward",
                activations=highest + self.reading,
                gradients=earlier + head,
                loss=after,
            ),
            # A divided student is whole for a moment: before it first reads, and to be compared
            # with the teacher on fixed sequences.
            self._moment("forward and backward", activations=self.together),
            # At the end the gradients are complete; a tied head's is added to the embeddings'.
            self._moment(
                "forward and backward",
                activations=self.reading,
                gradients=self.gradients
                + (0.0 if shape.head_parameters else head)
                + (0.0 if shape.adapted else self.reading),
            ),
        ]
        return worst(found)

    def step(self) -> Peak:
        """The optimiser's: two more of the largest tensor, or with CUDA one of each."""
        shape = self.student
        if self.kind == "cuda":
            work = 0.0 if "fused" in self.settings.optim else self.gradients
        else:
            work = 2 * shape.largest_trainable * shape.trainable_bytes / self.parts
        moment = self._moment("optimiser step", gradients=self.gradients)
        optimiser = moment.parts.get("optimiser", 0.0) + work
        return moment.model_copy(update={"parts": {**moment.parts, "optimiser": optimiser}})

    def _loss(self) -> tuple[float, float]:
        """What the loss takes while it is computed, and what it leaves for the backward pass."""
        if not self.distils:
            return self._cross_entropy()
        return self._stock_divergence() if self.stock else self._divergence()

    def _divergence(self) -> tuple[float, float]:
        """Of ``distillation.divergence``: logits a chunk at a time, gradients at once."""
        ours, theirs = self.student, self.teacher
        assert theirs is not None
        positions = self.rows * self.answer
        row = ours.vocabulary * EXACT
        chunks = max(1, ceil(2 * row * positions / LOGITS_BUDGET))
        rows = ceil(positions / chunks)
        number = ours.computing_bytes
        logits = rows * ours.vocabulary * (number + theirs.computing_bytes)
        block = min(rows * row, (2 if self.kind == "cpu" else 32) * 2**20)
        work = block * (3 if number == EXACT else 5)
        states = positions * ours.hidden_size * ours.dtype_bytes
        read = positions * theirs.hidden_size * theirs.dtype_bytes
        # In fewer bits, the head's weights and each chunk's gradient of them come beside.
        lower = number < EXACT
        summed = 0.0 if ours.adapted else self.head * (EXACT + number * lower)
        rounded = self.head * number if number < ours.dtype_bytes else 0.0
        return 2 * states + read + logits + work + summed + rounded, states

    def _cross_entropy(self) -> tuple[float, float]:
        """Of TRL's fused head (``trl.kernels.chunked_logprob``), in the backward pass."""
        shape = self.student
        positions = self.rows * (self.length - 1)
        number = shape.computing_bytes
        tile = min(positions, ROWS_OF_A_TILE) * min(shape.vocabulary, COLUMNS_OF_A_TILE)
        # Without Triton: the scaled logits, log p, p, the gradient, and what makes it.
        logits = tile * (number + (0.0 if self.kind == "cuda" else 7.25 * EXACT))
        states = positions * shape.hidden_size * (shape.dtype_bytes + EXACT)
        summed = 0.0 if shape.adapted else self.head * EXACT
        return logits + states + summed, states / 2

    def _stock_divergence(self) -> tuple[float, float]:
        """Of TRL's ``GKDTrainer``: so many tensors of a float for each token of the vocabulary."""
        positions = self.rows * self.length
        beta = self.settings.beta
        tensors = STOCK_TENSORS_AT_AN_END if beta in (0, 1) else STOCK_TENSORS
        return positions * self.student.vocabulary * EXACT * tensors, 0.0

    def _moment(
        self,
        name: Moment,
        *,
        gradients: float = 0.0,
        activations: float = 0.0,
        loss: float = 0.0,
        rollouts: float = 0.0,
        scoring: float = 0.0,
    ) -> Peak:
        parts: dict[Part, float] = {
            **self.always,
            "gradients": gradients + self.sent,
            "activations": activations,
            "logits and loss": loss,
            "rollouts": rollouts,
            "scoring": scoring,
        }
        return Peak(moment=name, parts={part: size for part, size in parts.items() if size})


LIBRARIES: dict[DeviceKind, float] = {"cpu": 0.9 * GIB, "cuda": 0.6 * GIB, "mps": 0.3 * GIB}
"""What a process takes beside its tensors; on a CPU with what the C library's heap loses."""
SCATTERED = 0.4
"""The share of the activations that a heap takes with gradient checkpointing; fitted."""
LAYERS_TOGETHER = 4
"""Of a divided student so many layers are whole at a time: the weights of one that reads and of the
next one, and in the backward pass a layer's gradients and what is sent of them."""
STOCK_TENSORS, STOCK_TENSORS_AT_AN_END = 17, 9
"""The most that stock TRL keeps of the logits' size in its divergence."""
