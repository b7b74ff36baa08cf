"""The trainings that a study may run, one for each value that decides whether it can."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.config.arms import ArmConfig
from sweeper.config.base import KeyPath, Scalar
from sweeper.config.settings import effective, model_settings, resolve
from sweeper.config.study import StudyConfig
from sweeper.records import Rehearsal


def rehearsals(config: StudyConfig) -> tuple[Rehearsal, ...]:
    """Return trainings that between them have every end and every choice of all spaces."""
    found = []
    for name, arm in config.arms.items():
        for key, params in _samples(arm):
            found.append(
                Rehearsal(
                    key=("arms", name, *map(str, key)),
                    method=arm.method,
                    settings=effective(arm.method, resolve(config.training, arm.settings, params)),
                    lora=model_settings("lora", arm.settings, params),
                    teacher=model_settings("teacher", arm.settings, params),
                )
            )
    if (warm := config.warm_start) is not None:
        settings = resolve(config.training, warm.settings())
        found.append(Rehearsal(key=("warm_start",), method=warm.method, settings=settings))
    return tuple(found)


def _samples(arm: ArmConfig) -> Iterator[tuple[KeyPath, dict[str, Scalar]]]:
    """Yield sampled parameters, and the key in the arm of the one that sets them apart."""
    ends = {name: list(space.ends().items()) for name, space in arm.search.items()}
    first = {name: values[0][1] for name, values in ends.items()}
    yield (), first
    for name, values in ends.items():
        for where, value in values[1:]:
            yield ("search", name, *where), {**first, name: value}
