"""Training jobs of tests, with the built-in pair unless a test names other models."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.evaluation import EvaluationConfig
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.preparation import TeacherOutputsConfig
from sweeper.config.settings import Method, MethodSettings, TrainingConfig, effective
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.start import starting_student
from sweeper.distillation.train import TrainingJob, distil
from sweeper.records import Resources, StudyInputs

SETTINGS: dict[str, Any] = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "max_length": 96,
    "logging_steps": 1,
    "max_new_tokens": 10,
}


def make_study_inputs(folder: Path, **changes: Any) -> StudyInputs:
    """Build a study's inputs, with its cache below ``folder``; given keys replace the defaults."""
    values: dict[str, Any] = {
        "study": "s",
        "seed": 1,
        "teacher": ModelConfig(model="builtin/adder-teacher"),
        "student": StudentConfig(model="builtin/adder-student"),
        "warm_start": None,
        "data": DataConfig(train=DatasetConfig(path="builtin/addition", limit=16)),
        "teacher_outputs": TeacherOutputsConfig(max_new_tokens=48),
        "training": TrainingConfig(),
        "evaluation": EvaluationConfig(selection="s.yaml"),
        "cache": str(folder / "cache"),
    }
    return StudyInputs(**{**values, **changes})


def train(
    inputs: StudyInputs,
    resources: Resources,
    method: Method,
    seed: int = 1,
    probe: Callable[[Any], float] | None = None,
    pause_at: Collection[int] = (),
    pause: Callable[[int, Any], bool] = lambda step, model: True,
    lend_head: Callable[[Any], None] = lambda head: None,
    **changes: Any,
) -> tuple[Any, CostMeter, list[dict[str, float]]]:
    """Train the starting student with ``SETTINGS`` and ``changes``.

    Returns:
        The trained student, what the job counted, and the points of its training curve.
    """
    settings = effective(method, MethodSettings(**{**SETTINGS, **changes}))
    training_data = read_training_data(inputs)
    points: list[dict[str, float]] = []
    job = TrainingJob(
        data=training_data,
        resources=resources,
        model=starting_student(training_data, resources),
        teacher=inputs.teacher,
        method=method,
        settings=settings,
        seed=seed,
        report=lambda step, total, metrics: points.append(metrics),
        probe=probe,
        lend_head=lend_head,
        pause_at=pause_at,
        pause=pause,
    )
    model, meter = distil(job)
    return model, meter, points


def untrained(folder: Path, device: str, lmbda: float) -> list[str]:
    """Train one step of GKD in bfloat16 autocast; return the weights that it left as they were."""
    inputs = make_study_inputs(folder)
    place = Resources(directory=str(folder), device=device, threads=1)
    before = starting_student(read_training_data(inputs), place)
    settings = {"optim": "sgd", "learning_rate": 1.0, "lmbda": lmbda, "bf16": True}
    after, _, _ = train(inputs, place, "gkd", max_steps=1, **settings)
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    return [name for (name, weights), trained in pairs if torch.equal(weights, trained)]


@torch.no_grad()
def move(model: Any, by: float) -> Any:
    """Move whatever is trained of a model, as a training of ``by`` would; return the model."""
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            generator = torch.Generator().manual_seed(len(name))
            weights.add_(by * torch.randn(weights.shape, generator=generator))
    return model
