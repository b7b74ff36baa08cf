"""What is measured, in order of importance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu.task import ADDER, Shapes, Training, pair_name

Kind = Literal["training", "rollouts"]
TUNED, RIVAL, OURS = "stock_tuned", "distillation_trainer", "ours"
_ALL = {OURS: 1.0, RIVAL: 1.1, TUNED: 2.2}
_LARGE_TEACHER_GIB = 40
"""Memory of the smallest GPU that the teacher of 7B is tried on."""
_ON_POLICY = {"lmbda": 1.0, "beta": 0.5}
# Sequences in the data's order, as TRL takes them.
_OFF_POLICY = {"lmbda": 0.0, "beta": 0.5}


@dataclass(frozen=True, eq=False)
class Row:
    """One comparison.

    Attributes:
        name: Name of the row.
        about: What is compared, for readers.
        pair: Name of the pair.
        engines: The engines, with what a turn of each costs next to one of ours, roughly.
        kind: What a turn does.
        settings: Settings of all engines.
        trials: Trials at a time, which share a GPU.
        devices: Devices of one trial.
        divided: True if they divide the student.
    """

    name: str
    about: str
    pair: str
    engines: dict[str, float]
    kind: Kind = "training"
    settings: dict[str, Any] = field(default_factory=dict)
    trials: int = 1
    devices: int = 1
    divided: bool = False


@dataclass(frozen=True)
class Turn:
    """One engine's turn in a row.

    Attributes:
        row: The row.
        engine: The engine.
        round: How often the engines have taken turns before.
    """

    row: Row
    engine: str
    round: int

    @property
    def weight(self) -> float:
        """Cost next to the first turn's, roughly."""
        return self.row.engines[self.engine]

    def tasks(
        self,
        *,
        shapes: Shapes,
        device: str,
        folder: Path,
        threads: int,
        steps: int,
        profiled: bool = False,
    ) -> list[Training]:
        """Return the processes of this turn.

        Args:
            shapes: Sizes of the models and steps.
            device: Kind of the devices, ``cpu`` or ``cuda``.
            folder: Folder with the files of all pairs.
            threads: CPU threads for all processes.
            steps: Counted steps.
            profiled: True to profile ours in the first round.
        """
        row = self.row
        count = row.trials * row.devices
        names = [device if device == "cpu" else f"{device}:{at}" for at in range(row.devices)]
        settings = dict(row.settings)
        if self.engine == OURS and settings.get("lmbda") == 0:
            # Length buckets would make other batches than TRL's.
            settings["length_bucketing"] = False
        tasks = []
        for at in range(count):
            trial, rank = divmod(at, row.devices)
            number = f"{row.name}-{row.pair}-{self.engine}-{self.round}-{trial}".replace(" ", "-")
            tasks.append(
                Training(
                    pair=row.pair,
                    shapes=shapes,
                    engine=self.engine,
                    folder=folder,
                    directory=folder / "turns" / number,
                    device=names[rank],
                    devices=tuple(names) if row.devices > 1 else (),
                    rank=rank,
                    divided=row.divided,
                    share=1 / row.trials,
                    threads=max(1, threads // count),
                    steps=steps,
                    settings=settings,
                    profiled=profiled and self.engine == OURS and self.round == 0,
                )
            )
        return tasks


def rows(gpu_gib: float, gpus: int) -> list[Row]:
    """Return the rows, the most important first.

    Args:
        gpu_gib: Memory of a GPU.
        gpus: Number of GPUs; 2 on a CPU, whose processes stand for them.
    """
    teacher = "7B" if gpu_gib >= _LARGE_TEACHER_GIB else "1.5B"
    small, large = pair_name("0.5B", teacher), pair_name("1.5B", teacher)
    two = "one trial on two GPUs, each with a copy of the student (DDP)"
    divided = "one trial on two GPUs that divide the student (FSDP)"
    on_policy = "every sequence is sampled (lmbda 1, beta 0.5)"
    off_policy = "every sequence is from the data (lmbda 0, beta 0.5)"
    found = [
        Row("on_policy", on_policy, small, _ALL, settings=_ON_POLICY),
        Row(
            "off_policy",
            off_policy,
            small,
            {OURS: 0.7, TUNED: 0.8},
            settings=_OFF_POLICY,
        ),
        Row(
            "rollout",
            "the rollouts of a step, of mixed lengths",
            small,
            {"sweeper": 0.7, "transformers": 0.7, "generate": 0.7},
            kind="rollouts",
        ),
        Row(
            "two_trials",
            "two trials on one GPU, each with half of its memory",
            small,
            {OURS: 1.8},
            settings=_ON_POLICY,
            trials=2,
        ),
        Row("two_gpus", two, small, {OURS: 1.4}, settings=_ON_POLICY, devices=2),
        Row(
            "two_gpus_divided",
            divided,
            small,
            {OURS: 1.6},
            settings=_ON_POLICY,
            devices=2,
            divided=True,
        ),
        Row("on_policy", on_policy, large, {OURS: 1.3, RIVAL: 1.4}, settings=_ON_POLICY),
        Row(
            "on_policy", on_policy, ADDER, {OURS: 0.5, RIVAL: 0.5, TUNED: 0.5}, settings=_ON_POLICY
        ),
        Row("off_policy", off_policy, ADDER, {OURS: 0.4, TUNED: 0.4}, settings=_OFF_POLICY),
    ]
    return [row for row in found if row.devices <= gpus and row.pair != pair_name(teacher, teacher)]


def turns(of: Sequence[Row], rounds: int) -> Iterator[Turn]:
    """Return all turns: engines alternate within a row, and rounds come one after the other."""
    for number in range(rounds):
        for row in of:
            # A second round repeats comparisons of engines only.
            if number == 0 or len(row.engines) > 1:
                for engine in row.engines:
                    yield Turn(row, engine, number)
