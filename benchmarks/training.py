"""One training of a pair, without what its trainer prints."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from sweeper.config.settings import Method, MethodSettings, effective
from sweeper.distillation import job
from sweeper.distillation.material import Material
from sweeper.distillation.meter import Meter
from sweeper.records import Place


def distil(
    material: Material, place: Place, method: Method, settings: MethodSettings, **options: Any
) -> tuple[Any, Meter]:
    """Train the student of ``material`` as a trial does; see ``job.distil``."""
    origin = material.origin
    with contextlib.redirect_stdout(io.StringIO()):
        return job.distil(
            origin,
            material,
            place,
            model=job.starting_student(origin, material, place),
            teacher=origin.teacher,
            method=method,
            settings=effective(method, settings),
            seed=1,
            **options,
        )
