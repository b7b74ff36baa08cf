"""The forecast of a training's memory against what trainings take: ``python -m benchmarks.memory``.

Each design is a whole training job on the CPU, the same function that trials run, in a process of
its own with the C library set as a trial's is. What it takes is the most that its process ever had
resident (``VmHWM``). All texts of a design are of one length, so that every micro-batch is the
worst. ``--json FILE`` writes the table that ``docs/memory.md`` shows; ``--only NAME`` measures one
design.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from benchmarks.engine import in_own_process
from benchmarks.pairs import make
from benchmarks.training import distil
from sweeper.commands.check.memory_forecast import moments, worst
from sweeper.commands.check.memory_terms import GIB, Peak, Sizes
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.settings import Method, MethodSettings, effective
from sweeper.distillation.data.training_data import TrainingData, read_training_data, unpack_models
from sweeper.distillation.distributed import joined
from sweeper.distillation.memory_shape import shape_of
from sweeper.execution.worker.malloc import keep_freed_memory
from sweeper.records import Resources, StudyInputs
from sweeper.records.layout import JobPaths
from sweeper.records.remedies import Setup

WIDE = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
"""A student whose memory is in its vocabulary: 73 million parameters, 58 of them embeddings."""
DEEP = {
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
"""A student whose memory is in its layers: 117 million parameters."""


@dataclass(frozen=True)
class Design:
    """A training to measure: SmolLM2-135M teaches its 10-layer cut, unless the design differs."""

    name: str
    method: Method = "gkd"
    length: int = 256
    rows: int = 4
    settings: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] | None = None
    """The configuration of random models in the place of both."""
    devices: int = 1
    """Processes that train together, of which the first is measured."""
    divided: bool = False
    """True if they divide the student."""


LORA = {"lora": {"r": 16}}
DESIGNS = (
    Design("beta 0.5"),
    Design("beta 0", settings={"beta": 0.0}),
    Design("beta 1", settings={"beta": 1.0}),
    Design("8 rows", rows=8),
    Design("512 tokens", length=512),
    Design("accumulation", settings={"gradient_accumulation_steps": 2}),
    Design("checkpointing", length=512, rows=8, settings={"gradient_checkpointing": True}),
    Design("adapter", length=512, student=LORA),
    Design(
        "adapter, checkpointing",
        length=512,
        rows=8,
        student=LORA,
        settings={"gradient_checkpointing": True},
    ),
    Design(
        "eager attention", length=512, student={"init_kwargs": {"attn_implementation": "eager"}}
    ),
    Design("bfloat16 autocast", length=512, settings={"bf16": True}),
    Design(
        "bfloat16 autocast, checkpointing",
        length=512,
        settings={"bf16": True, "gradient_checkpointing": True},
    ),
    Design("bfloat16 teacher", teacher={"dtype": "bfloat16"}),
    Design("int8 teacher", teacher={"quantization": "int8"}),
    Design("int4 teacher", teacher={"quantization": "int4"}),
    Design("on-policy", rows=8, length=128, settings={"lmbda": 1.0, "max_new_tokens": 64}),
    Design("sft", method="sft"),
    Design("sft, 8 rows of 512", method="sft", length=512, rows=8),
    Design("sft, adapter", method="sft", student=LORA),
    Design("supervised_kd", method="supervised_kd"),
    Design("wide", made=WIDE),
    Design("wide, sft", method="sft", made=WIDE),
    Design("deep", made=DEEP),
    Design("deep, sft", method="sft", made=DEEP, length=512),
    Design("sgd", made=DEEP, settings={"optim": "sgd"}),
    Design("two devices", made=DEEP, devices=2),
    Design("two devices, divided", made=DEEP, devices=2, divided=True),
    Design("two devices, sft", method="sft", made=DEEP, devices=2),
    Design("two devices, sft, divided", method="sft", made=DEEP, devices=2, divided=True),
    Design("trl, beta 0.5", rows=2, settings={"engine": "trl"}),
    Design("trl, beta 0", rows=2, settings={"engine": "trl", "beta": 0.0}),
    Design("trl, sft", method="sft", settings={"engine": "trl"}),
)


@dataclass(frozen=True)
class Measured:
    """A design's peak, and the forecast of it."""

    name: str
    measured: float
    """Peak in bytes."""
    forecast: Peak
    libraries: float
    """Memory of the process before it loaded a model, in bytes."""

    @property
    def ratio(self) -> float:
        """Ratio of the forecast to the measurement."""
        return self.forecast.total / self.measured


def unpack(shared: Path) -> None:
    """Unpack SmolLM2 into the cache, because unpacking takes memory of its own."""
    make("smollm2", shared, 1)


def measure(design: Design, shared: Path, threads: int) -> Measured:
    """Train by a design, and forecast it.

    Args:
        design: The training.
        shared: A folder that the designs share.
        threads: Of the CPU.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    before = _resident("VmRSS")
    with tempfile.TemporaryDirectory(dir=shared) as name:
        inputs = _inputs(design, shared, Path(name), threads)
        JobPaths(Path(name)).ranks.mkdir(parents=True)
        others = [
            get_context("spawn").Process(target=_train, args=(design, inputs, name, threads, rank))
            for rank in range(1, design.devices)
        ]
        for other in others:
            other.start()
        training_data = _train(design, inputs, name, threads, 0)
        highest = _resident("VmHWM")
        for other in others:
            other.join()
        settings = effective(design.method, _settings(design))
        data = training_data.tokens(settings.max_length).sequences
        sizes = Sizes(
            prompt=max(len(s.prompt) for s in data),
            answer=max(len(s.completion or ()) for s in data),
            text=max(len(s.prompt) + len(s.completion or ()) for s in data),
        )
        autocast = "bfloat16" if settings.bf16 else None
        distils = design.method in ("gkd", "supervised_kd")
        teacher = inputs.teacher if distils else None
        found = moments(
            Setup(
                design.method,
                settings,
                inputs.student,
                teacher,
                devices=design.devices,
                shard_student=design.divided,
            ),
            shape_of(inputs.student, "cpu", autocast=autocast),
            shape_of(teacher, "cpu", autocast=autocast) if teacher else None,
            sizes,
            "cpu",
        )
    return Measured(design.name, highest, worst(found), before)


def _train(
    design: Design, inputs: StudyInputs, directory: str, threads: int, rank: int
) -> TrainingData:
    """Train in one of a design's processes."""
    if rank:
        keep_freed_memory()
        torch.set_num_threads(threads)
    resources = Resources(
        directory=directory,
        device="cpu",
        devices=("cpu",) * design.devices if design.devices > 1 else (),
        rank=rank,
        shard_student=design.divided,
        threads=threads,
    )
    training_data = read_training_data(inputs)
    with joined(resources) as processes:
        distil(training_data, resources, design.method, _settings(design), processes=processes)
    return training_data


def _settings(design: Design) -> MethodSettings:
    return MethodSettings(
        **{
            "max_steps": 2,
            "per_device_train_batch_size": design.rows,
            "max_length": design.length,
            "learning_rate": 1e-5,
            "logging_steps": 1,
            "lmbda": 0.0,
            "beta": 0.5,
            **design.settings,
        }
    )


def _inputs(design: Design, shared: Path, folder: Path, threads: int) -> StudyInputs:
    inputs = make("smollm2", shared, threads, design.length).inputs
    teacher, student = inputs.teacher, StudentConfig(model=inputs.student.model, keep_layers=10)
    if design.made is not None:
        unpacked = Path(unpack_models(inputs).teacher.model)
        resources = str(_made(design.made, unpacked, folder / "made"))
        teacher = ModelConfig(model=resources, random_init=True)
        student = StudentConfig(model=resources, random_init=True)
    changes = {
        "teacher": ModelConfig.model_validate({**teacher.model_dump(), **design.teacher}),
        "student": StudentConfig.model_validate({**student.model_dump(), **design.student}),
        "teacher_states_gib": 0.0,
    }
    return unpack_models(inputs.model_copy(update=changes))


def _made(values: dict[str, Any], tokenizer: Path, folder: Path) -> Path:
    """Write a model without weights: a configuration, and another model's tokenizer."""
    folder.mkdir()
    for path in tokenizer.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and path.name != "config.json":
            shutil.copy(path, folder)
    config = AutoConfig.for_model(**values, max_position_embeddings=2048)
    config.save_pretrained(folder)
    return folder


def _resident(name: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024.0


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", action="append", choices=[design.name for design in DESIGNS])
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    console = Console()
    designs = [design for design in DESIGNS if not asked.only or design.name in asked.only]
    found = []
    with tempfile.TemporaryDirectory() as shared:
        in_own_process(unpack, Path(shared))
        for design in designs:
            one = in_own_process(measure, design, Path(shared), asked.threads)
            found.append(one)
            parts = {part: round(size / GIB, 2) for part, size in one.forecast.parts.items()}
            console.print(f"{one.name}: {one.ratio:.2f} of {one.measured / GIB:.2f} GiB")
            console.print(f"  {one.forecast.moment}: {parts}", style="dim")
    console.print(_table(found))
    if asked.json:
        rows = [
            {
                **asdict(design),
                "libraries_gib": round(one.libraries / GIB, 3),
                "measured_gib": round(one.measured / GIB, 3),
                "forecast_gib": round(one.forecast.total / GIB, 3),
                "ratio": round(one.ratio, 3),
                "moment": one.forecast.moment,
                "parts_gib": {p: round(size / GIB, 3) for p, size in one.forecast.parts.items()},
            }
            for design, one in zip(designs, found, strict=True)
        ]
        asked.json.write_text(json.dumps({"designs": rows}, indent=1) + "\n", encoding="utf-8")


def _table(found: list[Measured]) -> Table:
    table = Table()
    table.add_column("design")
    for name in ("measured, GiB", "forecast, GiB", "forecast/measured"):
        table.add_column(name, justify="right")
    for one in found:
        sizes = one.measured / GIB, one.forecast.total / GIB, one.ratio
        table.add_row(one.name, *(f"{value:.2f}" for value in sizes))
    return table


if __name__ == "__main__":
    main()
