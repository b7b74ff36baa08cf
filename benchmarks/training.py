"""One training of a pair, without what its trainer prints."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from sweeper.config.settings import Method, MethodSettings, effective
from sweeper.distillation import train
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.training_data import TrainingData
from sweeper.records import Resources


def distil(
    material: TrainingData,
    place: Resources,
    method: Method,
    settings: MethodSettings,
    **options: Any,
) -> tuple[Any, CostMeter]:
    """Train the student of ``material`` as a trial does; see ``train.distil``."""
    origin = material.origin
    with contextlib.redirect_stdout(io.StringIO()):
        return train.distil(
            origin,
            material,
            place,
            model=train.starting_student(origin, material, place),
            teacher=origin.teacher,
            method=method,
            settings=effective(method, settings),
            seed=1,
            **options,
        )
