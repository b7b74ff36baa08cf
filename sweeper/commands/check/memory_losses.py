"""Bytes of the losses: arithmetic on what each keeps next to the activations."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.commands.check.memory_calibration import STOCK_TENSORS, STOCK_TENSORS_AT_AN_END
from sweeper.commands.check.memory_terms import EXACT, DeviceKind
from sweeper.records import ModelShape, loss_chunks

ROWS_OF_A_TILE, COLUMNS_OF_A_TILE = 4096, 32768
"""Positions and tokens of the vocabulary that TRL's fused head takes at a time."""


@dataclass(frozen=True)
class LossMemory:
    """Memory of a micro-batch's loss: while it is computed, and what it keeps after."""

    student: ModelShape
    teacher: ModelShape | None
    """None if the student is not compared with it."""
    kind: DeviceKind
    rows: int
    """Sequences of a micro-batch."""
    length: int
    """Tokens of the longest."""
    answer: int
    """Tokens of the longest answer."""

    @property
    def _head(self) -> int:
        return self.student.vocabulary * self.student.hidden_size

    def of_ours(self, free: float) -> tuple[float, float]:
        """Return ``distillation.chunked_loss``: float32 logits by chunks, gradients at once.

        Args:
            free: Bytes that are free when the loss is first computed. On a GPU its chunks follow
                from them.
        """
        ours, theirs = self.student, self.teacher
        positions = self.rows * self.answer
        row = ours.vocabulary * EXACT
        budget = loss_chunks.chunk_budget(free) if self.kind == "cuda" else loss_chunks.LEAST
        rows = loss_chunks.rows_of_chunk(positions, row, budget)
        block = loss_chunks.rows_of_block(rows, row, budget, cached=self.kind == "cpu")
        logits = (rows + 3 * block) * row
        states = positions * ours.hidden_size * ours.dtype_bytes
        used = 2.0 * states + self._head * EXACT * ours.trains_head
        lower = ours.computing_bytes < EXACT
        if self.kind == "cuda":
            # The head's weights, and each chunk's gradient, are rounded for the products.
            if ours.computing_bytes < ours.dtype_bytes:
                used += self._head * ours.computing_bytes
            logits += rows * ours.vocabulary * ours.computing_bytes * lower
        elif lower:
            used += self._head * EXACT  # rounded, and widened for the products
        if theirs is not None:
            used += positions * theirs.hidden_size * theirs.dtype_bytes
            logits += rows * row
            if self.kind != "cuda" and theirs.computing_bytes < EXACT:
                used += theirs.vocabulary * theirs.hidden_size * EXACT
        return used + logits, states

    def of_stock(self, beta: float) -> tuple[float, float]:
        """Return the loss of TRL's own trainers; ``beta`` is that of a divergence."""
        return self._fused_head() if self.teacher is None else self._divergence(beta)

    def _fused_head(self) -> tuple[float, float]:
        """Return the loss of TRL's fused head (``trl.kernels.chunked_logprob``)."""
        shape = self.student
        positions = self.rows * (self.length - 1)
        tile = min(positions, ROWS_OF_A_TILE) * min(shape.vocabulary, COLUMNS_OF_A_TILE)
        # Without Triton: the scaled logits, log p, p, the gradient and its temporaries.
        temporaries = 0.0 if self.kind == "cuda" else 7.25 * EXACT
        logits = tile * (shape.computing_bytes + temporaries)
        states = positions * shape.hidden_size * (shape.dtype_bytes + EXACT)
        summed = 0.0 if shape.adapted else self._head * EXACT
        return logits + states + summed, states / 2

    def _divergence(self, beta: float) -> tuple[float, float]:
        """Return the loss of TRL's ``GKDTrainer``: tensors of the logits' size, in float32."""
        tensors = STOCK_TENSORS_AT_AN_END if beta in (0, 1) else STOCK_TENSORS
        return self.rows * self.length * self.student.vocabulary * EXACT * tensors, 0.0
