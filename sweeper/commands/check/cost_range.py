"""The cheapest and the most expensive settings that an arm searches."""

from __future__ import annotations

import math

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Scalar
from sweeper.config.settings import MethodSettings, is_dead

COSTLY = (
    "lmbda",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "max_new_tokens",
    "gradient_checkpointing",
    "lora.r",
)
"""Settings whose larger values take more time."""


def cost_range(arm: ArmConfig) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    """Return the cheapest and the most expensive settings of an arm's search.

    Settings that cost no time have the same value in both. Micro-batches are sampled from the
    student with probability ``lmbda``. A few steps between 0 and 1 would be a matter of luck, so
    ``lmbda`` is 0 in the cheapest settings and 1 in the most expensive ones.
    """
    cheapest: dict[str, Scalar] = {}
    most_expensive: dict[str, Scalar] = {}
    for name, space in arm.search.items():
        values = list(space.ends().values())
        cheapest[name] = most_expensive[name] = values[(len(values) - 1) // 2]
        if name in COSTLY:
            cheapest[name] = min(values)  # type: ignore[type-var]
            most_expensive[name] = max(values)  # type: ignore[type-var]
    if arm.method == "gkd":
        default = MethodSettings.model_fields["lmbda"].default
        fixed = arm.settings.get("lmbda", default)
        low, high = (settings.get("lmbda", fixed) for settings in (cheapest, most_expensive))
        for settings, share in (
            (cheapest, math.floor(float(low))),
            (most_expensive, math.ceil(float(high))),
        ):
            settings["lmbda"] = float(share)
    for settings in (cheapest, most_expensive):
        for name in tuple(settings):
            if is_dead(arm.method, name, {**arm.settings, **settings}):
                del settings[name]
    return cheapest, most_expensive
