"""The trainings of a study that take most memory, and least, and the models that they load."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from sweeper.config.base import Scalar
from sweeper.config.models import StudentConfig
from sweeper.config.study import StudyConfig
from sweeper.records import Autocast, ShapeRequest
from sweeper.records.remedies import Setup, setup_of

_MORE = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "max_new_tokens",
    "lora.r",
)
"""Settings of which more takes more: the largest value of a space is tried, or the smallest."""
_EITHER = (
    "gradient_checkpointing",
    "bf16",
    "fp16",
    "optim",
    "lmbda",
    "beta",
    "rollout_batch_size",
    "seq_kd",
    "teacher.model",
    "teacher.dtype",
    "teacher.quantization",
    "teacher.init_kwargs.attn_implementation",
)
"""Settings of which the ends of a space, or all choices, are tried."""


def wanted(config: StudyConfig) -> tuple[ShapeRequest, ...]:
    """Return the models whose shapes the preflight needs: those of a forecast, and the teacher.

    The preflight reports the teacher's size also if no arm loads it, unless it is served.
    """
    shapes = {
        request.key(): request
        for arm in config.arms
        for cheapest in (False, True)
        for setup in extreme_settings(config, arm, cheapest=cheapest)
        for request in requests(setup)
        if request is not None
    }
    models = [request.model for request in shapes.values()]
    if config.teacher.server is not None:
        return tuple(shapes.values())
    if not any(m.model == config.teacher.model for m in models if not isinstance(m, StudentConfig)):
        teacher = ShapeRequest(model=config.teacher, autocast=None)
        shapes[teacher.key()] = teacher
    return tuple(shapes.values())


def extreme_settings(config: StudyConfig, arm: str, *, cheapest: bool = False) -> Iterator[Setup]:
    """Yield trainings of the arm; one of them takes the most memory, or the least."""
    choose = min if cheapest else max
    search = config.arms[arm].search
    values: dict[str, list[Scalar]] = {}
    for name, space in search.items():
        ends = list(space.ends().values())
        if name in _MORE:
            values[name] = [choose(end for end in ends if isinstance(end, int | float))]
        elif name in _EITHER:
            values[name] = ends
    for chosen in product(*values.values()):
        yield setup_of(
            config.arms[arm],
            dict(zip(values, chosen, strict=True)),
            training=config.training,
            student=config.student,
            teacher=config.teacher,
            compute=config.compute,
        )


def requests(setup: Setup) -> tuple[ShapeRequest, ShapeRequest | None]:
    """Return the student that a training loads, and the teacher if it loads one."""
    settings = setup.settings
    autocast: Autocast | None = (
        "bfloat16" if settings.bf16 else "float16" if settings.fp16 else None
    )
    student = ShapeRequest(model=setup.student, autocast=autocast)
    if setup.teacher is None:
        return student, None
    return student, ShapeRequest(model=setup.teacher, autocast=autocast)
