"""The starting student's weights as a folder: what a server of students' weights starts with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sweeper.distillation.cost_meter import Report
from sweeper.distillation.data.training_data import TrainingData
from sweeper.distillation.models.plain_weights import write_weights
from sweeper.distillation.train import start_determinants, starting_student
from sweeper.foundation.cache import Cache
from sweeper.records import Resources

KIND = "start_weights"


def get_or_write(data: TrainingData, resources: Resources, report: Report) -> Path:
    """Return the folder in the cache; make the starting student and write it if it is not there.

    It is in the type of the study's scores, with the study's tokenizer.
    """
    inputs = data.inputs
    dtype = inputs.evaluation.dtype or "float32"
    untied = resources.device == "cpu"
    determinants: dict[str, Any] = {
        "start": start_determinants(data, resources),
        "dtype": dtype,
        "untied": untied,
        "template": str(data.tokenizer.chat_template),
    }

    def build(directory: Path) -> None:
        model = starting_student(data, resources, report)
        write_weights(model, directory, getattr(torch, dtype), untied=untied)
        data.tokenizer.save_pretrained(directory)

    return Cache(Path(inputs.cache)).get_or_compute(KIND, determinants, build)
