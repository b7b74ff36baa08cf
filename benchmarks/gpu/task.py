"""One training to measure; light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Shapes = Literal["full", "tiny"]
"""Sizes of models and steps: of real students and teachers, or for a try on a CPU."""
ADDER = "adder"
"""Name of the built-in pair."""


def pair_name(student: str, teacher: str) -> str:
    """Return the name of a pair of models by their sizes, such as ``0.5B`` and ``7B``."""
    return f"{student} from {teacher}"


@dataclass(frozen=True)
class Training:
    """A training to measure.

    Attributes:
        pair: Name of the pair.
        shapes: Sizes of its models and steps.
        engine: A key of ``benchmarks.engine.ENGINES``.
        folder: Folder with the files of all pairs.
        directory: Folder of this training, which its processes share.
        device: Device of this process.
        devices: Devices of all of its processes, if there are several.
        rank: Number of this process among them.
        divided: True if they divide the student.
        share: Share of the GPU's memory that the process may take.
        threads: CPU threads.
        steps: Counted steps; one comes before them and one, whose synchronisations are counted,
            after.
        settings: Settings next to the pair's.
        profiled: True to profile one more step, after the others.
    """

    pair: str
    shapes: Shapes
    engine: str
    folder: Path
    directory: Path
    device: str
    devices: tuple[str, ...] = ()
    rank: int = 0
    divided: bool = False
    share: float = 1.0
    threads: int = 1
    steps: int = 2
    settings: dict[str, Any] = field(default_factory=dict)
    profiled: bool = False
