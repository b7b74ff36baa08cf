"""What a study can train on several devices as one: each has the models, or a part of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sweeper.config.arms import ArmConfig, values_of
from sweeper.config.base import Refusal
from sweeper.config.compute import SHARDED_OPTIMISERS, ComputeConfig
from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.config.settings import TrainingConfig


def copy_problems(
    compute: ComputeConfig,
    teacher: ModelConfig,
    student: StudentConfig,
    training: TrainingConfig,
    arms: Mapping[str, ArmConfig],
) -> Iterator[Refusal]:
    """Yield what keeps a device of several from having the models, or a part of them."""
    several = f"with compute.devices_per_trial: {compute.devices_per_trial}"
    stock = f"expected sweeper {several}, which the stock trainers do not train as one"
    spread = f"expected none {several}: a process loads the model onto its own device"
    for location, engine in values_of("engine", training, arms):
        if engine != "sweeper":
            yield location, stock
    if compute.shard_teacher and (teacher.quantization or teacher.compile):
        key = "quantization" if teacher.quantization else "compile"
        message = f"expected none with compute.shard_teacher: {key} keeps a layer in one piece"
        yield ("teacher", key), message
    if compute.shard_student:
        yield from _shard_problems(student, training, arms)
    for role, model in (("teacher", teacher), ("student", student)):
        if "device_map" in model.init_kwargs:
            yield (role, "init_kwargs", "device_map"), spread
        key = f"shard_{role}"
        if getattr(compute, key) and "quantization_config" in model.init_kwargs:
            message = f"expected none with compute.{key}: quantized weights are in one piece"
            yield (role, "init_kwargs", "quantization_config"), message
    for name, arm in arms.items():
        for where in ("settings", "search"):
            if (key := "teacher.init_kwargs.device_map") in getattr(arm, where):
                yield ("arms", name, where, key), spread
            if compute.shard_teacher and (key := "teacher.quantization") in getattr(arm, where):
                yield ("arms", name, where, key), "expected none with compute.shard_teacher"


def _shard_problems(
    student: StudentConfig, training: TrainingConfig, arms: Mapping[str, ArmConfig]
) -> Iterator[Refusal]:
    """Yield what keeps the student from being divided among a trial's devices."""
    because = "with compute.shard_student"
    if student.quantization:
        message = f"expected none {because}: quantized weights are in one piece"
        yield ("student", "quantization"), message
    for key in ("use_dora", "modules_to_save") if student.lora else ():
        if getattr(student.lora, key):
            yield ("student", "lora", key), f"expected none {because}"
    for arm, config in arms.items():
        for where in ("settings", "search"):
            if (key := "lora.use_dora") in getattr(config, where):
                yield ("arms", arm, where, key), f"expected none {because}"
    for location, optimiser in values_of("optim", training, arms):
        if optimiser not in SHARDED_OPTIMISERS:
            known = ", ".join(SHARDED_OPTIMISERS)
            yield location, f"expected one of {known} {because}, found {optimiser!r}"
    for location, lower in values_of("fp16", training, arms):
        if lower:
            yield location, f"expected false {because}: use bf16"
