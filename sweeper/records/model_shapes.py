"""Shapes of models, as counted without their weights."""

from __future__ import annotations

from typing import Literal

from sweeper.config.models import ModelConfig, Quantization, StudentConfig
from sweeper.records.base import Record

Autocast = Literal["bfloat16", "float16"]


class ShapeRequest(Record):
    """A model whose shape is asked for."""

    model: ModelConfig | StudentConfig
    """A teacher, or a student; in this order a record of a teacher is read as one."""
    autocast: Autocast | None
    """Type that it computes in, if not that of its weights."""

    def key(self) -> str:
        """Return a text that is equal for equal requests."""
        return self.model_dump_json()


class Growth(Record):
    """Bytes that grow with the sequences that a model reads at a time."""

    fixed: float
    token: float
    """Bytes for each of their tokens."""
    pair: float
    """Bytes for each pair of tokens of one sequence: what attention keeps that is not fused."""

    def bytes(self, sequences: int, length: int) -> float:
        """Return what ``sequences`` of ``length`` tokens each take."""
        return self.fixed + sequences * length * (self.token + length * self.pair)


class Training(Record):
    """Memory of a forward and a backward pass, gradients of weights aside."""

    kept: Growth
    """Bytes between the two passes."""
    peak: Growth
    """Most bytes at any time."""


class ModelShape(Record):
    """Shape of a model as it is loaded, and the memory that reading with it takes."""

    parameters: int
    """Number of all parameters, an adapter's included."""
    embedding_parameters: int
    head_parameters: int
    """Parameters of the head; 0 if they are those of the embeddings."""
    linear_parameters: int
    """Parameters of the linear layers without the head: what quantization rounds."""
    cut_parameters: int = 0
    """Parameters of the layers that are left out of the model that it is loaded from."""
    adapter_parameters: int
    """Parameters of an adapter on all linear layers, for each of its ranks."""
    trainable_parameters: int
    """Parameters that are trained; 0 for a teacher."""
    largest_trainable: int
    """Parameters of the largest tensor among these."""
    adapted: bool
    """True if an adapter is trained instead of the model."""
    trains_head: bool = True
    """True if the head is trained, of an adapted model as one of its whole modules."""
    quantization: Quantization | None
    dtype_bytes: int
    """Bytes of a weight that is not quantized."""
    trainable_bytes: int
    """Bytes of a weight that is trained."""
    computing_bytes: int
    """Bytes of a number that the linear layers give."""
    hidden_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    """Channels of a head."""
    vocabulary: int
    reading: Growth
    """Most memory that is alive while it reads, logits aside."""
    training: Training | None
    """Memory of a student's training step; None for a teacher."""
    checkpointed: Training | None
    """Memory of that step with ``gradient_checkpointing``; None for a teacher."""
    unforeseen: str | None = None
    """Reason why nothing can be said of the memory that it takes as it is loaded."""
