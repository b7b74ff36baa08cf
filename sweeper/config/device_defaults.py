"""Precision and optimiser that a study leaves to its devices: what they are, and on which.

On GPUs that compute in bfloat16 a study trains in bfloat16 autocast, with TF32 products and the
fused optimiser, as users of GPUs expect. Anywhere else the defaults of the keys hold: float32. What
the user wrote wins. The values are found once, when a study starts, and recorded with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from sweeper.config.base import Scalar, Strict
from sweeper.config.study import StudyConfig

FIRST_WITH_BFLOAT16 = 8.0
"""Compute capability of NVIDIA's first GPUs that have bfloat16 and TF32."""


class DeviceKind(NamedTuple):
    """A kind of device that trials may run on."""

    type: Literal["cpu", "cuda", "mps"]
    name: str
    """Name for people: ``NVIDIA H200``."""
    capability: float | None = None
    """Compute capability of a GPU; None if its driver does not report it."""

    @property
    def has_bfloat16(self) -> bool:
        """True for a GPU that is known to have instructions for bfloat16 and TF32."""
        return self.capability is not None and self.capability >= FIRST_WITH_BFLOAT16

    def described(self) -> str:
        """Return the kind in words: ``NVIDIA H200 (compute capability 9.0)``."""
        if self.type != "cuda":
            return self.name
        known = "unknown" if self.capability is None else f"{self.capability:.1f}"
        return f"{self.name} (compute capability {known})"


CPU = DeviceKind("cpu", "CPU")
_ANY_GPU = DeviceKind("cuda", "GPU", FIRST_WITH_BFLOAT16)


class DeviceDefaults(Strict):
    """Values of ``training`` that a study took from its devices."""

    device: str
    """Kind of the devices, in words; of several kinds the least capable."""
    training: dict[str, Scalar]
    """Value of each key that the study file leaves to the devices."""
    cannot: tuple[str, ...] = Field(default=(), strict=False)
    """Keys with values that the devices cannot compute as they say."""

    def listed(self) -> str:
        """Return the values in words: ``bf16: true, tf32: true``."""
        return ", ".join(
            f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
            for key, value in self.training.items()
        )


def device_defaults(config: StudyConfig, kinds: Sequence[DeviceKind]) -> DeviceDefaults:
    """Return the values of the keys that the study file leaves to the devices.

    Every arm gets the same, so of several kinds of devices the least capable decides. An arm's own
    ``settings`` and ``search`` still win in it.

    Args:
        config: The study, as it was written.
        kinds: Kinds of the devices that trials may run on; at least one.
    """
    weakest = min(kinds, key=lambda kind: (kind.has_bfloat16, kind.capability or 0.0))
    capable = weakest.has_bfloat16
    values: dict[str, Scalar] = {
        "bf16": capable and not _declares_float16(config),
        "tf32": capable,
        "optim": "adamw_torch_fused" if capable else "adamw_torch",
    }
    written = config.training.model_fields_set
    return DeviceDefaults(
        device=weakest.described(),
        training={key: value for key, value in values.items() if key not in written},
        cannot=cannot(config, kinds),
    )


def with_defaults(config: StudyConfig, defaults: DeviceDefaults) -> StudyConfig:
    """Return the study as if its file had the ``defaults``; what it has itself wins."""
    written = config.training.model_fields_set
    values = {key: value for key, value in defaults.training.items() if key not in written}
    training = config.training.model_copy(update=values)
    return config.model_copy(update={"training": training})


def on_any_device(config: StudyConfig) -> StudyConfig:
    """Return the study as it is on the most capable device that it may get."""
    gpu = config.compute.resources_per_trial.gpu != 0 and config.compute.device in ("auto", "cuda")
    gpu |= config.compute.device.startswith("cuda:")
    return with_defaults(config, device_defaults(config, [_ANY_GPU])) if gpu else config


def cannot(config: StudyConfig, kinds: Sequence[DeviceKind]) -> tuple[str, ...]:
    """Return the keys with values that one of the kinds cannot compute as they say.

    A CPU computes in bfloat16, without instructions for it slowly; a GPU that has none emulates it.
    Nothing is said of a GPU whose driver does not report its capability.
    """
    keys = []
    for name in ("bf16", "tf32"):
        for kind in kinds:
            old = kind.capability is not None and not kind.has_bfloat16
            if old or (name == "tf32" and kind.type != "cuda"):
                places = (place for place, value in config.values_of(name) if value is True)
                keys += [".".join(map(str, place)) for place in places]
    return tuple(dict.fromkeys(keys))


def _declares_float16(config: StudyConfig) -> bool:
    """Return True if a training, or the student's weights, are in float16 by the study file."""
    lower = any(value is True for _, value in config.values_of("fp16"))
    return lower or config.student.dtype == "float16"
