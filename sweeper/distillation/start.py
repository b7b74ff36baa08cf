"""The student that every arm starts from: the model itself, or its warm start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sweeper.config.base import Scalar
from sweeper.config.models import START, ModelConfig
from sweeper.config.preparation import WarmStartConfig
from sweeper.config.settings import resolve
from sweeper.distillation.cost_meter import Report
from sweeper.distillation.data.training_data import TrainingData, own_teacher
from sweeper.distillation.models.adapters import check_mergeable, merge_adapter
from sweeper.distillation.models.loading import computing_threads, identity, load_model
from sweeper.distillation.models.plain_weights import write_weights
from sweeper.distillation.train import TrainingJob, distil
from sweeper.foundation.cache import Cache
from sweeper.foundation.environment import library_versions
from sweeper.records import Resources, StudyInputs, seeds

_NOT_IN_WARM_STARTS = {"checkpoint_every", "teacher_signal", "teacher_top_k"}
"""Settings that change nothing in a warm start."""


def starting_student(
    data: TrainingData, resources: Resources, report: Report = lambda *_: None
) -> Any:
    """Return the student that every arm starts from: the model itself, or its warm start.

    The warm start is trained once and kept in the cache.
    """
    inputs = data.inputs
    if inputs.warm_start is None:
        seed = seeds.student_seed(inputs.seed)
        return load_model(inputs.student.before_training(), resources.device, seed=seed)
    determinants, build = _warm_start(data, inputs.warm_start, resources, report)

    def read(directory: Path) -> Any:
        return load_model(_warm_model(inputs, directory), resources.device)

    return Cache(Path(inputs.cache)).read("warm_starts", determinants, build, read)


def written_start(data: TrainingData, resources: Resources, report: Report) -> Path:
    """Return the starting student as a folder in the cache, for its servers to start with.

    It is in the type of the study's scores, with the study's tokenizer.
    """
    inputs = data.inputs
    dtype = inputs.evaluation.dtype or "float32"
    untied = resources.device == "cpu"
    determinants: dict[str, Any] = {
        "start": _determinants(data, resources),
        "dtype": dtype,
        "untied": untied,
        "template": str(data.tokenizer.chat_template),
    }

    def build(directory: Path) -> None:
        model = starting_student(data, resources, report)
        write_weights(model, directory, getattr(torch, dtype), untied=untied)
        data.tokenizer.save_pretrained(directory)

    return Cache(Path(inputs.cache)).get_or_compute("start_weights", determinants, build)


def teacher_of_arm(
    data: TrainingData, resources: Resources, values: Mapping[str, Scalar]
) -> ModelConfig:
    """Return the teacher of an arm with ``values`` of its own; see ``own_teacher``.

    A warm start that is the teacher is trained if it is not in the cache.
    """
    inputs, start = data.inputs, None
    if values.get("model") == START and inputs.warm_start is not None:
        determinants, build = _warm_start(data, inputs.warm_start, resources, lambda *_: None)
        entry = Cache(Path(inputs.cache)).get_or_compute("warm_starts", determinants, build)
        start = _warm_model(inputs, entry)
    return own_teacher(inputs, values, start)


def _determinants(data: TrainingData, resources: Resources) -> dict[str, Any]:
    """Return what decides the weights of the student that every arm starts from."""
    inputs = data.inputs
    if inputs.warm_start is not None:
        return _warm_start(data, inputs.warm_start, resources, lambda *_: None)[0]
    student = inputs.student.before_training()
    seed = seeds.student_seed(inputs.seed) if student.random_init else None
    return {"student": identity(student), "seed": seed, "versions": library_versions()}


def _warm_model(inputs: StudyInputs, directory: Path) -> ModelConfig:
    """Return the warm start in ``directory``, loaded as the student is."""
    student = inputs.student.before_training()
    return ModelConfig(
        model=str(directory),
        dtype=student.dtype,
        quantization=student.quantization,
        trust_remote_code=student.trust_remote_code,
        init_kwargs=student.init_kwargs,
    )


def _warm_start(
    data: TrainingData, warm: WarmStartConfig, resources: Resources, report: Report
) -> tuple[dict[str, Any], Callable[[Path], None]]:
    """Return what decides the warm start, and the function that trains it."""
    inputs, student = data.inputs, data.inputs.student.before_training()
    seed = seeds.student_seed(inputs.seed)
    settings = resolve(inputs.training, warm.settings())
    # Warm starts of earlier versions have no such key, and had no TF32.
    idle = _NOT_IN_WARM_STARTS if settings.tf32 else _NOT_IN_WARM_STARTS | {"tf32"}
    determinants = {
        "student": identity(student),
        "lora": inputs.student.lora.model_dump(mode="json") if inputs.student.lora else None,
        "teacher": identity(inputs.teacher) if warm.method == "seqkd" else None,
        "teacher_outputs": inputs.teacher_outputs.model_dump() if warm.method == "seqkd" else None,
        "data": data.fingerprint,
        "template": str(data.tokenizer.chat_template),
        "method": warm.method,
        "settings": settings.model_dump(mode="json", exclude=idle),
        "seed": inputs.seed,
        "device": resources.device.partition(":")[0],
        "threads": inputs.cache_threads,
        "versions": library_versions(),
    }

    def build(directory: Path) -> None:
        with computing_threads(inputs.cache_threads):
            train_warm_start(directory)

    def train_warm_start(directory: Path) -> None:
        model = load_model(student, resources.device, seed=seed)
        if inputs.student.lora is not None and student.quantization is None:
            check_mergeable(model, ("warm_start",))
        job = TrainingJob(
            data=data,
            resources=resources,
            model=model,
            teacher=inputs.teacher,
            method=warm.method,
            settings=settings,
            seed=seeds.warm_start_seed(inputs.seed),
            report=report,
        )
        trained, _ = distil(job)
        merged = merge_adapter(trained, student, resources.device, seed)
        merged.save_pretrained(directory)
        data.tokenizer.save_pretrained(directory)

    return determinants, build
