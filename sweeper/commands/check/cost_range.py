"""The two ends of an arm's search: the settings that cost least, and those that cost most."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Scalar
from sweeper.config.settings import MethodSettings, without_effect
from sweeper.config.space import AnySpace, CategoricalSpace

COSTLY = (
    "lmbda",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "max_new_tokens",
    "gradient_checkpointing",
    "lora.r",
)
"""Settings of which more costs more time."""


@dataclass(frozen=True)
class CostRange:
    """Settings to measure an arm's trials at, and where its trials are between them.

    Attributes:
        lightest: What costs least of all that is searched; of what costs nothing, the middle.
        heaviest: What costs most; the same if no trial of the arm costs more than another.
        low: Where the cheapest trials of the arm are: 0 is ``lightest``, 1 ``heaviest``.
        mean: Where they are on average.
        high: Where the dearest are.
    """

    lightest: dict[str, Scalar]
    heaviest: dict[str, Scalar]
    low: float = 0.0
    mean: float = 0.0
    high: float = 0.0


def ends(arm: ArmConfig) -> CostRange:
    """The two ends of the arm's search.

    Micro-batches are sampled from the student with the probability ``lmbda``, so a few steps at a
    value in between would be a matter of luck: those at 0 and at 1 are mixed instead.
    """
    lightest: dict[str, Scalar] = {}
    heaviest: dict[str, Scalar] = {}
    for name, space in arm.search.items():
        if name == "lmbda":
            continue
        values = list(space.ends().values())
        costly = name in COSTLY
        lightest[name] = min(values) if costly else middle(space)  # type: ignore[type-var]
        heaviest[name] = max(values) if costly else lightest[name]  # type: ignore[type-var]
    low, mean, high = (0.0, 0.5, 1.0) if lightest != heaviest else (0.0, 0.0, 0.0)
    if arm.method == "gkd":
        least, average, most = _lmbda(arm)
        if least == most and least in (0, 1):
            shares = (least, least)
        else:
            shares = (0.0, 1.0)
            # What else is searched may make trials cheaper or dearer than the share alone.
            low, mean, high = (0.0, average, 1.0) if high else (least, average, most)
        for chosen, share in zip((lightest, heaviest), shares, strict=True):
            chosen["lmbda"] = share
            for dead in without_effect("gkd", share):
                chosen.pop(dead, None)
    return CostRange(lightest, heaviest, low, mean, high)


def _lmbda(arm: ArmConfig) -> tuple[float, float, float]:
    """The smallest, the average and the largest share of batches that the student samples."""
    space = arm.search.get("lmbda")
    if space is None:
        fixed = float(arm.settings.get("lmbda", MethodSettings.model_fields["lmbda"].default))
        return fixed, fixed, fixed
    values = [float(value) for value in space.ends().values() if value is not None]
    return min(values), sum(values) / len(values), max(values)


def middle(space: AnySpace) -> Scalar:
    """A value in the middle of what is searched; of choices, that in the middle of the list."""
    if isinstance(space, CategoricalSpace):
        return space.choices[len(space.choices) // 2]
    value = math.sqrt(space.low * space.high) if space.log else (space.low + space.high) / 2
    if space.step is not None:
        value = space.low + space.step * round((value - space.low) / space.step)
    return value if space.type == "float" else round(value)
