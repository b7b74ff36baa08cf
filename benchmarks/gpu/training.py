"""One training of the benchmark, measured in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch.profiler import profile

from benchmarks.engine import ENGINES
from benchmarks.gpu.models import JobOfMadeModels, make_student, make_teacher
from benchmarks.gpu.pairs import make
from benchmarks.gpu.peaks import GIB, Peaks
from benchmarks.gpu.synchronisations import Synchronisations
from benchmarks.gpu.task import Training
from sweeper.config.settings import MethodSettings, effective
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.distillation.distributed import joined
from sweeper.distillation.train import distil
from sweeper.execution.worker.malloc import keep_freed_memory
from sweeper.execution.worker.memory_fence import allocator_fraction
from sweeper.records import Resources
from sweeper.records.layout import JobPaths

_PARTS = ("rollout", "teacher", "student", "optimiser")


def train(asked: Training, meet: Callable[[], None]) -> dict[str, Any]:
    """Train, and return what was measured of the counted steps.

    Args:
        asked: The training.
        meet: Waits for the processes next to this one, before the first counted step.

    Returns:
        ``seconds`` of each step, its ``parts`` in seconds, ``tokens_per_second`` trained on,
        ``generated_per_second``, the ``peak`` in GiB, ``synchronisations`` of one step, where most
        of them are asked for, and the lines of the ``profile`` if there is one.
    """
    place = prepare(asked)
    pair = make(asked.pair, asked.shapes, asked.folder, asked.device.startswith("cuda"))
    data = read_training_data(unpack_models(pair.inputs))
    settings = effective("gkd", training_settings(asked, pair.settings))
    counter = Synchronisations(asked.device)
    watch = _Watch(asked, counter, meet)
    JobPaths(asked.directory).ranks.mkdir(parents=True, exist_ok=True)
    with joined(place) as processes:
        distil(
            JobOfMadeModels(
                data=data,
                resources=place,
                model=make_student(data, place),
                teacher=data.inputs.teacher,
                method="gkd",
                settings=settings,
                seed=1,
                report=watch.report,
                processes=processes,
                made_teacher=make_teacher(data, place),
            )
        )
    return watch.measured()


def training_settings(asked: Training, of_pair: dict[str, Any]) -> MethodSettings:
    """Return the settings of a training."""
    return MethodSettings(
        **{
            **of_pair,
            "learning_rate": 1e-5,
            "logging_steps": 1,
            "max_steps": asked.steps + 2 + asked.profiled,
            **ENGINES[asked.engine],
            **asked.settings,
        }
    )


def prepare(asked: Training) -> Resources:
    """Set this process up as a trial's is, and return its place."""
    torch.set_num_threads(asked.threads)
    if asked.device == "cpu":
        keep_freed_memory()
    else:
        _show_only(asked.devices or (asked.device,))
        torch.cuda.set_device(asked.device)
        whole = torch.cuda.get_device_properties(asked.device).total_memory
        if (fraction := allocator_fraction(asked.share, whole)) is not None:
            torch.cuda.set_per_process_memory_fraction(fraction)
    return Resources(
        directory=str(asked.directory),
        device=asked.device,
        devices=asked.devices,
        rank=asked.rank,
        shard_student=asked.divided,
        threads=asked.threads,
    )


def _show_only(devices: Sequence[str]) -> None:
    """Show the first GPUs, ``devices``, to this process alone: trainers take all that they see."""
    listed = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = listed or [str(number) for number in range(len(devices))]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[: len(devices)])


class _Watch:
    """Measures the steps of a training at the points of its curve."""

    def __init__(
        self, asked: Training, counter: Synchronisations, meet: Callable[[], None]
    ) -> None:
        self._asked, self._counter, self._meet = asked, counter, meet
        self._on_gpu = asked.device.startswith("cuda")
        self._ends: list[float] = []
        self._points: list[dict[str, float]] = []
        self._peaks = Peaks(asked.device)
        self._peaks.install()
        self._peak: dict[str, Any] = {}
        self._synchronisations = 0
        self._profiler: profile | None = None
        self._profile = ""

    def report(self, _step: int, _total: int, point: dict[str, float]) -> None:
        """Take a point; there is one for each step."""
        counted = self._asked.steps + 1
        if len(self._ends) == counted:
            self._after()
            return
        if not self._ends:
            self._meet()
            self._peaks.forget()
        if self._on_gpu:
            torch.cuda.synchronize()
        self._ends.append(time.perf_counter())
        self._points.append(point)
        if len(self._ends) == counted:
            self._peak = self._read_peak()
            self._counter.begin()

    def _after(self) -> None:
        """Take the point of a step that comes after the counted ones."""
        if self._profiler is not None:
            self._profiler.stop()
            averages = self._profiler.key_averages()
            key = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
            self._profile = averages.table(key, row_limit=30, max_name_column_width=60)
            return
        self._synchronisations = self._counter.end()
        if self._asked.profiled:
            self._profiler = profile()
            self._profiler.start()

    def measured(self) -> dict[str, Any]:
        """Return what ``train`` does."""
        seconds = [after - before for before, after in pairwise(self._ends)]
        first, *counted = self._points
        # A part that is not timed apart, as the teacher's of TRL's trainers, is in the student's.
        each = {
            part: median(point.get(f"seconds_{part}", 0.0) for point in counted)
            for part in _PARTS
            if any(f"seconds_{part}" in point for point in counted)
        }
        rates = {
            name: (counted[-1][f"{kind}_tokens"] - first[f"{kind}_tokens"]) / sum(seconds)
            for name, kind in (
                ("tokens_per_second", "trained"),
                ("generated_per_second", "generated"),
            )
        }
        return {
            "seconds": seconds,
            "parts": each,
            **rates,
            "peak": self._peak,
            "synchronisations": self._synchronisations,
            "synchronised_at": self._counter.most(),
            **({"profile": self._profile.splitlines()} if self._profile else {}),
        }

    def _read_peak(self) -> dict[str, Any]:
        """Return the most memory of the counted steps in GiB, also by the ``parts`` of a step.

        ``total`` is comparable to the forecast of ``sweeper check``. On a GPU it is what torch
        took of the device (``reserved``, of which tensors had ``allocated``), and what CUDA and its
        libraries did (``context``), if this process has the GPU to itself.
        """
        self._peaks.look()
        found: dict[str, Any] = {"parts": dict(self._peaks.most)}
        most = max(self._peaks.most.values())
        if not self._on_gpu:
            return {**found, "total": most}
        found |= {"allocated": most, "reserved": self._peaks.reserved}
        if self._asked.share == 1 and not self._asked.devices:
            free, whole = torch.cuda.mem_get_info()
            found["context"] = (whole - free - torch.cuda.memory_reserved()) / GIB
            found["total"] = self._peaks.reserved + found["context"]
        return found
