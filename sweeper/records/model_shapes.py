"""How large models are, as counted without their weights."""

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
    """What it computes in, if not in the type of its weights."""

    def key(self) -> str:
        """The same for equal requests."""
        return self.model_dump_json()


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
    cut_parameters: int = 0
    """Of the layers that are left out of the model that it is loaded from."""
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
