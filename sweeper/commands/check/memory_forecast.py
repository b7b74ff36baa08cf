"""Peak memory of a training: arithmetic on the shapes of its models.

Models, gradients and the optimiser's states are held all the time. A moment needs more: a rollout,
a forward and backward pass, an optimiser step. The peak is that of the worst moment.
``docs/memory.md`` has each term with its source, and compares the sum with measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.commands.check.memory_calibration import LAYERS_TOGETHER, LIBRARIES, SCATTERED
from sweeper.commands.check.memory_losses import LossMemory
from sweeper.commands.check.memory_terms import (
    EXACT,
    DeviceKind,
    Moment,
    Part,
    Peak,
    Scoring,
    Sizes,
    state_bytes,
    weight_bytes,
)
from sweeper.records import ModelShape
from sweeper.records.remedies import Setup

SPARE_COLUMNS = 64
"""``decoding._SPARE_COLUMNS``."""


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
        self.together = self.sampled = self.reading = 0.0
        if self.parts > 1:
            self.together = weight_bytes(student)
            # On a GPU, weights that autocast rounds at each use are rounded as they come.
            self.sampled = weight_bytes(student, autocast=autocast and kind == "cuda")
            layer = student.linear_parameters / student.layers
            outside = student.embedding_parameters + student.head_parameters
            # The outside comes as one message, from which its weights are copied.
            self.reading = (2 * outside + LAYERS_TOGETHER[kind].value * layer) * student.dtype_bytes
        self.always: dict[Part, float] = {
            "teacher": weight_bytes(teacher, autocast=autocast and not self.stock)
            if teacher
            else 0.0,
            "student": weight_bytes(student) / self.parts,
            "optimiser": self.gradients * state_bytes(settings.optim),
            "libraries": LIBRARIES[kind].value,
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
        return self._moment("rollout", {"rollouts": used + self.sampled})

    def scoring(self, task: Scoring) -> Peak:
        """Return the peak of scoring by lm-eval; the training's memory is not freed yet."""
        shape, documents = self.student, task.documents
        width = self.scored_bytes / shape.computing_bytes
        cache = width * self._cache(documents * task.tokens)
        if task.likelihoods and self.kind == "cuda":
            # Of these, a GPU reads as many as it has room for, and keeps nothing between tokens.
            documents, cache = 1, 0.0
        reading = width * shape.reading.bytes(documents, task.tokens)
        positions = documents * (task.tokens if task.likelihoods else 1)
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
        if self.kind in SCATTERED and shape.training is not None:
            # Kept activations lie scattered, and the heap can use little of the gaps between them.
            scattered = SCATTERED[self.kind].value
            kept = max(kept, scattered * shape.training.kept.bytes(self.rows, self.length))
        highest = grown.peak.bytes(self.rows, self.length)
        if settings.gradient_checkpointing and self.rounds and not shape.adapted:
            # Autocast keeps rounded weights until the loss is computed.
            kept += shape.linear_parameters * shape.computing_bytes
        head = self.head * shape.trainable_bytes * shape.trains_head
        earlier = self.gradients if settings.gradient_accumulation_steps > 1 else 0.0
        # Ours sizes its chunks when it is first computed, before there is an optimiser's state.
        held = sum(size for part, size in self.always.items() if part != "optimiser")
        loss = LossMemory(shape, self.teacher, self.kind, self.rows, self.length, self.answer)
        if settings.engine == "trl":
            beginning, after = loss.of_stock(settings.beta)
        else:
            beginning, after = loss.of_ours(self.memory - held - kept)
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

    def _moment(self, name: Moment, added: dict[Part, float]) -> Peak:
        """Return a moment with the bytes of its own parts, besides those that are always there."""
        parts = {**self.always, **added}
        parts["gradients"] = added.get("gradients", 0.0) + self.sent
        return Peak(moment=name, parts={part: size for part, size in parts.items() if size})
