"""Models with random weights, drawn where they are used: nothing is written, read or copied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sweeper.config.models import ModelConfig
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.models.loading import load_model, read_config
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.distillation.train import TrainingJob
from sweeper.records import Resources, seeds


@dataclass(frozen=True)
class JobOfMadeModels(TrainingJob):
    """A training whose teacher is there already."""

    made_teacher: Any = None

    @property
    def shared_teacher(self) -> SharedTeacher:
        """Teacher of the arm."""
        return replace(super().shared_teacher, model=self.made_teacher)


def make_student(data: TrainingData, place: Resources) -> Any:
    """Return the student that the training starts with."""
    return _made(data.inputs.student, place.device, seeds.student_seed(data.inputs.seed))


def make_teacher(data: TrainingData, place: Resources) -> Any:
    """Return the teacher."""
    return _made(data.inputs.teacher, place.device, seeds.teacher_seed(data.inputs.seed))


def _made(model: ModelConfig, device: str, seed: int) -> Any:
    """Return a model with weights that are drawn on ``device``, or a built-in one with its own."""
    if not model.random_init:
        return load_model(model, device)
    dtype = torch.float32 if model.dtype == "auto" else getattr(torch, model.dtype)
    own = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=own), torch.device(device):
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(read_config(model), dtype=dtype)
    return made.eval()
