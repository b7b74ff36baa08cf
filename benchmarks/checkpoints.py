"""What checkpoints cost: the same training with them and without, side by side.

``python -m benchmarks.checkpoints``, or with ``--pair smollm2 --steps 6 --every 2``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.engine import in_own_process
from benchmarks.pairs import make
from benchmarks.training import distil
from sweeper.config.settings import MethodSettings
from sweeper.distillation.checkpoints import Checkpoints
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.execution.worker.progress import ProgressWriter
from sweeper.foundation.cache import directory_size
from sweeper.records import Resources
from sweeper.records.layout import JobPaths

USUAL = 50
"""Steps between two checkpoints, for which the share is printed."""


def train(pair: str, steps: int, every: int | None, threads: int) -> tuple[float, float, int]:
    """Train once.

    Returns:
        Seconds of a step, seconds of a checkpoint, and its bytes; 0 without checkpoints.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).resolve()
        found = make(pair, folder, threads)
        inputs = unpack_models(found.inputs)
        resources = Resources(directory=str(folder), device="cpu", threads=threads)
        training_data = read_training_data(inputs)
        values = {**found.settings, "gradient_accumulation_steps": 1, "logging_steps": 1}
        settings = MethodSettings(**values, max_steps=steps + 1, lmbda=0.5, beta=0.5)
        paths = JobPaths(folder)
        points: list[float] = []
        checkpoints = None
        if every is not None:
            checkpoints = Checkpoints(paths, every, {"benchmark": pair}, ProgressWriter(paths))
        _, meter = distil(
            training_data,
            resources,
            "gkd",
            settings,
            report=lambda *_: points.append(time.perf_counter()),
            checkpoints=checkpoints,
        )
        # The first step warms up; the last checkpoint comes after the last point.
        elapsed = points[-1] - points[0]
        if every is None:
            return elapsed / steps, 0.0, 0
        each = meter.totals["seconds_checkpoint"] / len(
            {*range(every, steps + 1, every), steps + 1}
        )
        return elapsed / steps, each, directory_size(paths.checkpoint)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", choices=("quickstart", "smollm2"), default="quickstart")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    asked = parser.parse_args()
    plain, saving, each, size = [], [], [], 0
    for _ in range(asked.repetitions):
        seconds, _, _ = in_own_process(train, asked.pair, asked.steps, None, asked.threads)
        plain.append(seconds)
        seconds, one, size = in_own_process(
            train, asked.pair, asked.steps, asked.every, asked.threads
        )
        saving.append(seconds)
        each.append(one)
    step, one = median(plain), median(each)
    print(f"a step without checkpoints     {step:.3f} s")
    print(f"a step, saved every {asked.every:<4}       {median(saving):.3f} s")
    print(f"one checkpoint                 {one:.3f} s, {size / 1e6:.1f} MB")
    print(f"share of the time, every {USUAL:<4}  {one / (USUAL * step + one):.2%}")


if __name__ == "__main__":
    main()
