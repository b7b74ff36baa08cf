"""Shapes of models whose memory can be computed by hand, and a study that trains them."""

from __future__ import annotations

from typing import Any

from sweeper.analysis.findings import Finding
from sweeper.commands.check.memory_findings import Shapes, StudyTrainings
from sweeper.commands.check.memory_findings import memory_findings as findings_of
from sweeper.commands.check.memory_terms import GIB
from sweeper.config.study import StudyConfig
from sweeper.execution.device_sharing import DeviceMemory
from sweeper.records import (
    DataSummary,
    Growth,
    Lengths,
    ModelShape,
    ShapeRequest,
    TokenLengths,
    Training,
)

LAYERS, WIDTH, INNER, VOCABULARY = 24, 896, 4864, 151_936
LINEAR = LAYERS * (2 * WIDTH * WIDTH + 2 * WIDTH * 128 + 3 * WIDTH * INNER)
KEPT = Growth(fixed=0, token=LAYERS * (11 * WIDTH + 4 * INNER) * 4, pair=0)
STUDENT = ModelShape(
    parameters=LINEAR + VOCABULARY * WIDTH,
    embedding_parameters=VOCABULARY * WIDTH,
    head_parameters=0,
    linear_parameters=LINEAR,
    adapter_parameters=LAYERS * (6 * WIDTH + 2 * (WIDTH + 128) + 3 * (WIDTH + INNER)),
    trainable_parameters=LINEAR + VOCABULARY * WIDTH,
    largest_trainable=VOCABULARY * WIDTH,
    adapted=False,
    quantization=None,
    dtype_bytes=4,
    trainable_bytes=4,
    computing_bytes=4,
    hidden_size=WIDTH,
    layers=LAYERS,
    heads=14,
    key_value_heads=2,
    head_size=64,
    vocabulary=VOCABULARY,
    reading=Growth(fixed=0, token=4 * INNER * 4, pair=0),
    training=Training(kept=KEPT, peak=KEPT),
    checkpointed=Training(
        kept=Growth(fixed=0, token=LAYERS * WIDTH * 4, pair=0),
        peak=Growth(fixed=0, token=2 * KEPT.token / LAYERS, pair=0),
    ),
)
"""About what Qwen2.5-0.5B is."""
TEACHER = STUDENT.model_copy(
    update={
        "parameters": 7_600_000_000,
        "embedding_parameters": 545_000_000,
        "head_parameters": 545_000_000,
        "linear_parameters": 6_500_000_000,
        "dtype_bytes": 2,
        "computing_bytes": 2,
        "hidden_size": 3584,
        "trainable_parameters": 0,
        "training": None,
        "checkpointed": None,
    }
)


def up_to(longest: int) -> Lengths:
    return Lengths(count=100, percentiles=(*range(100), longest))


DATA = DataSummary(
    rows=100,
    used=100,
    fingerprint="da7a",
    source="rows.jsonl",
    prompt_tokens=100.0,
    completion_tokens=200.0,
    chat=True,
    lengths=TokenLengths(
        max_length=1025,
        prompts=up_to(256),
        references=up_to(768),
        sequences=up_to(1024),
        dropped=0,
        cut=0,
    ),
)


def config(**keys: Any) -> StudyConfig:
    values = {
        "study": "s",
        "teacher": {"model": "big", "dtype": "bfloat16"},
        "student": {"model": "small"},
        "data": {"train": {"path": "rows.jsonl", "columns": {"prompt": "p", "completion": "c"}}},
        "training": {"max_length": 1025},
        "arms": {"gkd": {"settings": {"max_new_tokens": 512}}, "sft": {}},
        "evaluation": {"selection": "selection.yaml", "dtype": "float32"},
    }
    return StudyConfig.model_validate({**values, **keys})


def shapes(request: ShapeRequest) -> ModelShape:
    shape = TEACHER if request.model.model == "big" else STUDENT
    return shape.model_copy(update={"quantization": request.model.quantization})


def room(gib: float) -> DeviceMemory:
    return DeviceMemory("a GPU", "cuda", gib * GIB, gib * GIB)


def memory_findings(
    study: StudyConfig, data: DataSummary, shapes: Shapes, rooms: list[DeviceMemory]
) -> list[Finding]:
    return findings_of(StudyTrainings(study, data, shapes), rooms)


def rows(gib: float, **keys: Any) -> Finding:
    [found] = memory_findings(config(**keys), DATA, shapes, [room(gib)])
    return found
