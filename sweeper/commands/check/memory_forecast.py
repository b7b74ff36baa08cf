"""Peak memory of a training: arithmetic on the shapes of its models.

Models, gradients and the optimiser's states are held all the time. A moment needs more: a rollout,
a forward and backward pass, an optimiser step. The peak is that of the worst moment.
``docs/memory.md`` has each term with its source, and compares the sum with measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sweeper.records import ModelShape, Record, loss_chunks
from sweeper.records.remedies import Setup

GIB = 2**30
EXACT = 4
"""Bytes of a float32."""
ROWS_OF_A_TILE, COLUMNS_OF_A_TILE = 4096, 32768
"""Positions and tokens of the vocabulary that TRL's fused head takes at a time."""
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
    "weights for a server",
    "libraries",
]
Moment = Literal[
    "rollout", "forward and backward", "optimiser step", "scoring", "giving a server its weights"
]
DeviceKind = Literal["cpu", "cuda", "mps"]


class Peak(Record):
    """Bytes of a training at its worst moment."""

    moment: Moment
    parts: dict[Part, float]
    """Bytes by purpose, without parts of zero bytes."""

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Scoring:
    """How a student is scored on a task."""

    documents: int
    """Documents at a time."""
    tokens: int
    """Tokens of the longest document, its answer included."""
    likelihoods: bool
    """True if the task asks how likely a text is, which takes its logits."""


@dataclass(frozen=True)
class Sizes:
    """Largest lengths in the data in tokens, cut to ``max_length``."""

    prompt: int
    answer: int
    """Tokens of an answer that is not sampled."""
    text: int
    """Tokens of a prompt and its answer together."""
    scoring: tuple[Scoring, ...] = ()
    """Scoring of each of the suites' tasks; empty to leave scoring out."""
    scored_bytes: int = EXACT
    """Bytes of a number in the precision that students are scored in."""
    samples_served: bool = False
    """True if a server samples the rollouts."""
    gives: bool = False
    """True if the student's weights are given to a server."""


def moments(
    setup: Setup,
    student: ModelShape,
    teacher: ModelShape | None,
    sizes: Sizes,
    kind: DeviceKind,
    memory: float | None = None,
) -> list[Peak]:
    """Return the moments of a training of which one is the worst.

    The student's shape is as it is trained, the teacher's as it is loaded; None if it is not.
    ``memory`` is what the training may take, in bytes. On a GPU with room, the loss takes more
    than it needs; without ``memory``, it is taken to have none.
    """
    training = _Training(setup, student, teacher, sizes, kind, memory or 0.0)
    peaks = [training.passes(), training.step()]
    if training.samples and (training.stock or not sizes.samples_served):
        peaks.append(training.rollout())
    if sizes.gives:
        peaks.append(training.giving())
    peaks += [training.scoring(task) for task in sizes.scoring]
    return peaks


def worst(peaks: Sequence[Peak]) -> Peak:
    """Return the moment that takes most."""
    return max(peaks, key=lambda peak: peak.total)


def weight_bytes(shape: ModelShape, *, autocast: bool = False) -> float:
    """Return the bytes of a model's weights.

    With ``autocast``, weights that are rounded at each use are stored rounded
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
    """Return the size of an optimiser's states, relative to that of the trained weights.

    An optimiser with an unknown name is taken to be like Adam.
    """
    if optimiser.startswith(("sgd", "adafactor")):
        return 0.0
    moments = 1.0 if optimiser.startswith(("lion", "rmsprop", "adagrad")) else 2.0
    return moments * (0.25 if "8bit" in optimiser else 0.125 if "4bit" in optimiser else 1.0)


class _Training:
    """Memory of one training, by its moments."""

    def __init__(
        self,
        setup: Setup,
        student: ModelShape,
        teacher: ModelShape | None,
        sizes: Sizes,
        kind: DeviceKind,
        memory: float,
    ) -> None:
        self.settings = settings = setup.settings
        self.student, self.teacher, self.kind, self.memory = student, teacher, kind, memory
        self.distils = teacher is not None
        self.stock = settings.engine != "sweeper"
        self.samples = setup.method == "gkd" and settings.lmbda > 0
        self.rows = settings.per_device_train_batch_size
        self.prompt, self.scored_bytes = sizes.prompt, sizes.scored_bytes
        # Weights of another type are copied while the student is scored.
        quantized = student.linear_parameters if student.quantization else 0
        copied = student.parameters - student.trainable_parameters * student.adapted - quantized
        self.copies = copied * sizes.scored_bytes * (student.dtype_bytes != sizes.scored_bytes)
        # Lengths of prompt and answer together, and of the answer, in rollouts and in the data.
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
        # A copy's gradients are there twice: one is on its way to the other devices.
        self.sent = whole if setup.devices > self.parts else 0.0
        # A divided student is whole when it samples and is scored. While it reads, only some layers
        # and everything outside of them are whole.
        self.together = self.reading = 0.0
        if self.parts > 1:
            self.together = weight_bytes(student)
            layer = student.linear_parameters / student.layers
            outside = student.embedding_parameters + student.head_parameters
            # The outside comes as one message, from which its weights are copied.
            self.reading = (2 * outside + LAYERS_TOGETHER * layer) * student.dtype_bytes
        self.always: dict[Part, float] = {
            "teacher": weight_bytes(teacher, autocast=autocast and not self.stock)
            if teacher
            else 0.0,
            # A heap can use little of the space that cut layers leave behind.
            "student": weight_bytes(student) / self.parts
            + (student.cut_parameters * student.dtype_bytes if kind == "cpu" else 0.0),
            "optimiser": self.gradients * state_bytes(settings.optim),
            "libraries": LIBRARIES[kind],
        }
        self.head = student.vocabulary * student.hidden_size
        """Parameters of the student's head, tied or not."""

    def rollout(self) -> Peak:
        """Return the peak of sampling: keys and values of all texts, and one pass."""
        settings, shape = self.settings, self.student
        rows = waiting = self.rows
        if not self.stock:
            waiting = self.rows * settings.gradient_accumulation_steps
            rows = min(settings.rollout_batch_size or waiting, waiting)
        columns = self.prompt + settings.max_new_tokens + SPARE_COLUMNS * (waiting > rows)
        number = shape.computing_bytes
        cache = self._cache(rows * columns)
        # Keys and values are repeated for all heads, one layer at a time.
        repeated = 2 * rows * columns * shape.heads * shape.head_size * number
        reading = shape.reading.bytes(rows, self.prompt)
        logits = rows * shape.vocabulary * (number + 2 * EXACT)
        used = cache + max(reading, repeated + logits)
        return self._moment("rollout", {"rollouts": used + self.together})

    def scoring(self, task: Scoring) -> Peak:
        """Return the peak of scoring by lm-eval; the training's memory is not freed yet."""
        shape, texts = self.student, task.documents * task.tokens
        width = self.scored_bytes / shape.computing_bytes
        cache = width * self._cache(texts)
        reading = width * shape.reading.bytes(task.documents, task.tokens)
        positions = texts if task.likelihoods else task.documents
        # The logits, and their logarithms in float32.
        logits = positions * shape.vocabulary * (self.scored_bytes + EXACT)
        used = cache + max(reading, logits) + self.together + self.copies
        return self._moment("scoring", {"scoring": used})

    def giving(self) -> Peak:
        """Return the peak of giving a server the weights.

        On a CPU they are written: a copy in their type, and its bytes. A GPU's server reads them
        where they lie, but for those of another type, or to which an adapter is added.
        """
        shape = self.student
        if self.kind == "cpu":
            copied = 2 * shape.parameters
        elif shape.dtype_bytes != self.scored_bytes:
            copied = shape.parameters
        else:
            copied = shape.linear_parameters * shape.adapted
        given = copied * self.scored_bytes
        return self._moment("giving a server its weights", {"weights for a server": given})

    def _cache(self, tokens: int) -> float:
        """Return the bytes of the student's keys and values."""
        shape = self.student
        channels = shape.layers * shape.key_value_heads * shape.head_size
        return 2 * tokens * channels * shape.computing_bytes

    def passes(self) -> Peak:
        """Return the peak of forward, loss and backward in a window's later micro-batch."""
        settings, shape = self.settings, self.student
        grown = shape.checkpointed if settings.gradient_checkpointing else shape.training
        assert grown is not None
        kept = grown.kept.bytes(self.rows, self.length)
        if self.kind == "cpu" and shape.training is not None:
            # Kept activations lie scattered, and the heap can use little of the gaps between them.
            kept = max(kept, SCATTERED * shape.training.kept.bytes(self.rows, self.length))
        highest = grown.peak.bytes(self.rows, self.length)
        if settings.gradient_checkpointing and self.rounds and not shape.adapted:
            # Autocast keeps rounded weights until the loss is computed.
            kept += shape.linear_parameters * shape.computing_bytes
        head = self.head * shape.trainable_bytes * shape.trains_head
        earlier = self.gradients if settings.gradient_accumulation_steps > 1 else 0.0
        beginning, after = self._loss(kept)
        # At the end the gradients are complete; a tied head's is added to the embeddings'.
        complete = self.gradients + (0.0 if shape.head_parameters else head)
        complete += 0.0 if shape.adapted else self.reading
        stages = (
            # Gradients, activations, and what the loss takes.
            (earlier, kept + self.reading, beginning),
            (earlier + head, highest + self.reading, after),
            # A divided student is whole for a moment: before it first reads, and to be compared
            # with the teacher on fixed sequences.
            (0.0, self.together + self.copies, 0.0),
            (complete, self.reading, 0.0),
        )
        names: tuple[Part, ...] = ("gradients", "activations", "logits and loss")
        moments = [dict(zip(names, stage, strict=True)) for stage in stages]
        return worst([self._moment("forward and backward", parts) for parts in moments])

    def step(self) -> Peak:
        """Return the peak of the optimiser step, with its temporary tensors.

        Those are two of the largest tensor's size, or with CUDA one of each tensor's.
        """
        shape, optimiser = self.student, self.always["optimiser"]
        if self.kind == "cuda":
            work = 0.0 if "fused" in self.settings.optim else self.gradients
        else:
            work = 2 * shape.largest_trainable * shape.trainable_bytes / self.parts
        return self._moment(
            "optimiser step", {"gradients": self.gradients, "optimiser": optimiser + work}
        )

    def _loss(self, kept: float) -> tuple[float, float]:
        """Return the bytes of the loss while it is computed, and those that it keeps after.

        ``kept`` are those of the activations that it is computed beside.
        """
        if self.settings.engine != "trl":
            return self._chunked_loss(kept)
        return self._stock_divergence() if self.distils else self._stock_cross_entropy()

    def _chunked_loss(self, kept: float) -> tuple[float, float]:
        """Return ``distillation.chunked_loss``: float32 logits by chunks, gradients at once."""
        ours, theirs = self.student, self.teacher
        positions = self.rows * self.answer
        row = ours.vocabulary * EXACT
        # The loss sizes its chunks when it is first computed, before there is an optimiser's state.
        held = sum(size for part, size in self.always.items() if part != "optimiser")
        budget = loss_chunks.LEAST
        if self.kind == "cuda":
            budget = loss_chunks.chunk_budget(self.memory - held - kept)
        rows = loss_chunks.rows_of_chunk(positions, row, budget)
        block = loss_chunks.rows_of_block(rows, row, budget, cached=self.kind == "cpu")
        logits = (rows + 3 * block) * row
        states = positions * ours.hidden_size * ours.dtype_bytes
        used = 2.0 * states + self.head * EXACT * ours.trains_head
        lower = ours.computing_bytes < EXACT
        if self.kind == "cuda":
            # The head's weights, and each chunk's gradient, are rounded for the products.
            used += (
                self.head * ours.computing_bytes if ours.computing_bytes < ours.dtype_bytes else 0.0
            )
            logits += rows * ours.vocabulary * ours.computing_bytes * lower
        elif lower:
            used += self.head * EXACT  # rounded, and widened for the products
        if theirs is not None:
            used += positions * theirs.hidden_size * theirs.dtype_bytes
            logits += rows * row
            if self.kind != "cuda" and theirs.computing_bytes < EXACT:
                used += theirs.vocabulary * theirs.hidden_size * EXACT
        return used + logits, states

    def _stock_cross_entropy(self) -> tuple[float, float]:
        """Return the loss of TRL's fused head (``trl.kernels.chunked_logprob``)."""
        shape = self.student
        positions = self.rows * (self.length - 1)
        number = shape.computing_bytes
        tile = min(positions, ROWS_OF_A_TILE) * min(shape.vocabulary, COLUMNS_OF_A_TILE)
        # Without Triton: the scaled logits, log p, p, the gradient and its temporaries.
        logits = tile * (number + (0.0 if self.kind == "cuda" else 7.25 * EXACT))
        states = positions * shape.hidden_size * (shape.dtype_bytes + EXACT)
        summed = 0.0 if shape.adapted else self.head * EXACT
        return logits + states + summed, states / 2

    def _stock_divergence(self) -> tuple[float, float]:
        """Return the loss of TRL's ``GKDTrainer``: tensors of the logits' size, in float32."""
        positions = self.rows * self.length
        beta = self.settings.beta
        tensors = STOCK_TENSORS_AT_AN_END if beta in (0, 1) else STOCK_TENSORS
        return positions * self.student.vocabulary * EXACT * tensors, 0.0

    def _moment(self, name: Moment, added: dict[Part, float]) -> Peak:
        """Return a moment with the bytes of its own parts, besides those that are always there."""
        parts = {**self.always, **added}
        parts["gradients"] = added.get("gradients", 0.0) + self.sent
        return Peak(moment=name, parts={part: size for part, size in parts.items() if size})


LIBRARIES: dict[DeviceKind, float] = {"cpu": 0.9 * GIB, "cuda": 0.6 * GIB, "mps": 0.3 * GIB}
"""Bytes of a process without its tensors; on a CPU with the losses of the C library's heap."""
SCATTERED = 0.4
"""Share of the activations that a heap takes with gradient checkpointing; fitted."""
LAYERS_TOGETHER = 4
"""Layers of a divided student that are whole at a time: the weights of the current and of the next
one, and in the backward pass a layer's gradients and their copy that is sent."""
STOCK_TENSORS, STOCK_TENSORS_AT_AN_END = 17, 9
"""Most tensors of the logits' size that stock TRL keeps in its divergence."""
