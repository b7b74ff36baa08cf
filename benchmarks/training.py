"""One training of a pair, without what its trainer prints."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from sweeper.config.settings import Method, MethodSettings, effective
from sweeper.distillation import start, train
from sweeper.distillation.cost_meter import CostMeter
from sweeper.distillation.data.training_data import TrainingData
from sweeper.records import Resources


def distil(
    data: TrainingData,
    resources: Resources,
    method: Method,
    settings: MethodSettings,
    **options: Any,
) -> tuple[Any, CostMeter]:
    """Train the student of ``data`` as a trial does; see ``train.distil``."""
    with contextlib.redirect_stdout(io.StringIO()):
        job = train.TrainingJob(
            data=data,
            resources=resources,
            model=start.starting_student(data, resources),
            teacher=data.inputs.teacher,
            method=method,
            settings=effective(method, settings),
            seed=1,
            **options,
        )
        return train.distil(job)
