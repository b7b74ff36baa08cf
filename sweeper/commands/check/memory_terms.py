"""What a forecast of memory is made of: moments and their parts, sizes, and bytes of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweeper.records import ModelShape, Record

GIB = 2**30
EXACT = 4
"""Bytes of a float32."""

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


def weight_bytes(shape: ModelShape, *, autocast: bool = False) -> float:
    """Return the bytes of a model's weights.

    With ``autocast``, weights that are rounded at each use are stored rounded
    (``rounding.store_for_autocast``).
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
