"""The forecast of a training's memory: that of ``sweeper check``, on a GPU of this size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.pairs import make
from benchmarks.gpu.peaks import GIB
from benchmarks.gpu.task import Training
from benchmarks.gpu.training import training_settings
from sweeper.commands.check.memory_forecast import moments, worst
from sweeper.commands.check.memory_terms import DeviceKind, Sizes
from sweeper.config.settings import effective
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.distillation.memory_shape import shape_of
from sweeper.records.remedies import Setup


def forecast(asked: Training, meet: Callable[[], None]) -> dict[str, Any]:
    """Return the ``total`` in GiB, and the GiB of every part at each of the ``moments``.

    Nothing is loaded.

    Args:
        asked: The training.
        meet: Not used: nobody waits for a forecast.
    """
    kind: DeviceKind = "cuda" if asked.device.startswith("cuda") else "cpu"
    pair = make(asked.pair, asked.shapes, asked.folder, kind == "cuda")
    inputs = unpack_models(pair.inputs)
    settings = effective("gkd", training_settings(asked, pair.settings))
    sequences = read_training_data(inputs).tokens(settings.max_length).sequences
    autocast = "bfloat16" if settings.bf16 else None
    memory = None
    if kind == "cuda":
        memory = asked.share * torch.cuda.get_device_properties(asked.device).total_memory
    peaks = moments(
        Setup(
            "gkd",
            settings,
            inputs.student,
            inputs.teacher,
            devices=max(1, len(asked.devices)),
            shard_student=asked.divided,
        ),
        shape_of(inputs.student, asked.device, autocast=autocast),
        shape_of(inputs.teacher, asked.device, autocast=autocast),
        Sizes(
            prompt=max(len(s.prompt) for s in sequences),
            answer=max(len(s.completion or ()) for s in sequences),
            text=max(len(s.prompt) + len(s.completion or ()) for s in sequences),
        ),
        kind,
        memory,
    )
    return {
        "total": worst(peaks).total / GIB,
        "moments": {
            peak.moment: {part: size / GIB for part, size in peak.parts.items()} for peak in peaks
        },
    }
