"""What to change about a training that does not fit, diverges or takes too long.

The remedies of memory are changes of a ``Setup``: ``sweeper check`` estimates the effect of each
before a study starts. The other remedies are words for a trial that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Scalar
from sweeper.config.compute import SHARDED_OPTIMISERS, ComputeConfig
from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig, with_settings
from sweeper.config.settings import (
    Method,
    MethodSettings,
    TrainingConfig,
    effective,
    model_settings,
    resolve,
)
from sweeper.records import INTERIM_PHASE, PreparationSpec, TrialSpec

SMALLEST_TEACHER = 1 / 8
"""Smallest share of the teacher's parameters that is proposed."""
_SCORING = ("evaluate", "score", INTERIM_PHASE)
"""Phases in which a model is scored."""
_TRAINING = ("", "train")
"""Phase in which a student is trained; records of old versions have none."""


@dataclass(frozen=True)
class Setup:
    """Everything about a training that decides what memory it takes.

    Attributes:
        method: Method of the arm.
        settings: Settings of the trial.
        student: Student with the adapter that the trial gives it.
        teacher: Teacher that the trial loads; None if it loads none.
        teacher_share: Share of the teacher's parameters that a smaller one would have.
        devices: Number of devices that train together.
        shard_student: True if these divide the student.
    """

    method: Method
    settings: MethodSettings
    student: StudentConfig
    teacher: ModelConfig | None
    teacher_share: float = 1.0
    devices: int = 1
    shard_student: bool = False


def make_setup(
    method: Method,
    settings: MethodSettings,
    student: StudentConfig,
    teacher: ModelConfig,
    *,
    lora: Mapping[str, Scalar],
    own: Mapping[str, Scalar],
    devices: int,
    shard_student: bool,
) -> Setup:
    """Return the training of a trial.

    Args:
        method: Method of the arm.
        settings: Settings of the trial.
        student: Student of the study.
        teacher: Teacher of the study.
        lora: The trial's own values over the student's adapter.
        own: The trial's own values over the teacher.
        devices: Number of devices that train together.
        shard_student: True if these divide the student.
    """
    if student.lora is not None:
        changed = student.lora.model_copy(update=dict(lora))
        student = student.model_copy(update={"lora": changed})
    loads = method in ("gkd", "supervised_kd") and teacher.server is None
    return Setup(
        method,
        settings,
        student,
        with_settings(teacher, own, student.before_training()) if loads else None,
        devices=devices,
        shard_student=shard_student,
    )


def setup_of(
    arm: ArmConfig,
    params: Mapping[str, Scalar],
    *,
    training: TrainingConfig,
    student: StudentConfig,
    teacher: ModelConfig,
    compute: ComputeConfig,
) -> Setup:
    """Return the training of a trial.

    Args:
        arm: The trial's arm.
        params: The parameters that the trial sampled.
        training: The study's training settings.
        student: The study's student.
        teacher: The study's teacher.
        compute: Devices of a trial, and whether they divide the student.
    """
    method, fixed, given = arm.method, arm.settings, dict(params)
    return make_setup(
        method,
        effective(method, resolve(training, fixed, given)),
        student,
        teacher,
        lora=model_settings("lora", fixed, given),
        own=model_settings("teacher", fixed, given),
        devices=compute.devices_per_trial,
        shard_student=compute.shard_student,
    )


@dataclass(frozen=True)
class Change:
    """A changed training, and what was changed.

    Attributes:
        words: Keys of the study file with their new values, where there are such.
        setup: Training with the change.
    """

    words: str
    setup: Setup


Remedy = Callable[[Setup], Iterator[Change]]
"""Function that yields possible changes of a training, the mildest first."""


def smaller_batches(setup: Setup) -> Iterator[Change]:
    """Yield smaller micro-batches that leave the optimiser step as it is.

    As many rollouts are sampled at a time as a micro-batch has sequences.
    """
    settings = setup.settings
    rows = settings.per_device_train_batch_size
    sampled = setup.method == "gkd" and settings.lmbda > 0 and settings.engine == "sweeper"
    for fewer in (count for count in range(rows - 1, 0, -1) if rows % count == 0):
        values = {
            "per_device_train_batch_size": fewer,
            "gradient_accumulation_steps": settings.gradient_accumulation_steps * (rows // fewer),
        }
        if sampled:
            values["rollout_batch_size"] = min(fewer, settings.rollout_batch_size or fewer)
        size, *others = (f"{name}: {value}" for name, value in values.items())
        words = f"{size} with {' and '.join(others)}"
        yield Change(words, replace(setup, settings=settings.model_copy(update=values)))


def quantized_teacher(setup: Setup) -> Iterator[Change]:
    """Yield a teacher whose linear layers have 8 bits, then 4."""
    if setup.teacher is None:
        return
    for kind in {None: ("int8", "int4"), "int8": ("int4",)}.get(setup.teacher.quantization, ()):
        teacher = setup.teacher.model_copy(update={"quantization": kind})
        yield Change(f"teacher.quantization: {kind}", replace(setup, teacher=teacher))


def smaller_teacher(setup: Setup) -> Iterator[Change]:
    """Yield a teacher of half the parameters, a quarter, and so on."""
    share = setup.teacher_share
    while setup.teacher is not None and share > SMALLEST_TEACHER:
        share /= 2
        yield Change("a smaller teacher.model", replace(setup, teacher_share=share))


def gradient_checkpointing(setup: Setup) -> Iterator[Change]:
    """Yield activations that are computed again in the backward pass."""
    if not setup.settings.gradient_checkpointing:
        settings = setup.settings.model_copy(update={"gradient_checkpointing": True})
        yield Change("gradient_checkpointing: true", replace(setup, settings=settings))


def divided_student(setup: Setup) -> Iterator[Change]:
    """Yield a student in parts, where several devices have copies of it."""
    divisible = setup.settings.optim in SHARDED_OPTIMISERS and setup.student.quantization is None
    if setup.devices > 1 and divisible and not (setup.shard_student or setup.settings.fp16):
        yield Change("compute.shard_student: true", replace(setup, shard_student=True))


def adapter(setup: Setup) -> Iterator[Change]:
    """Yield a low-rank adapter that is trained in the student's place."""
    if setup.student.lora is None:
        student = setup.student.model_copy(update={"lora": LoraConfig()})
        yield Change("student.lora: {r: 16}", replace(setup, student=student))


REMEDIES: tuple[Remedy, ...] = (
    smaller_batches,
    quantized_teacher,
    smaller_teacher,
    gradient_checkpointing,
    divided_student,
    adapter,
)
"""All remedies, in the order to try them."""


_OF_WEIGHTS: tuple[Remedy, ...] = (quantized_teacher, smaller_teacher, adapter)
"""Remedies that help before a training begins."""


def advice(setup: Setup, remedies: tuple[Remedy, ...] = REMEDIES) -> list[str]:
    """Return what can still be changed, in the order to try it: each remedy's mildest change."""
    return [change.words for remedy in remedies for change in islice(remedy(setup), 1)]


def helps_training(phase: str) -> bool:
    """Return whether smaller micro-batches may help a job that ran out of memory in ``phase``."""
    return phase in _TRAINING


def memory_remedies(spec: TrialSpec | PreparationSpec, phase: str) -> tuple[str, ...]:
    """Return what may let a job fit that ran out of memory.

    Args:
        spec: The job's spec.
        phase: Phase in which its memory ran out.
    """
    origin = spec.origin
    if phase in _SCORING:
        # It was tried with one document at a time.
        return ("a suite with shorter prompts (num_fewshot)", "a smaller model")
    if isinstance(spec, PreparationSpec):
        outputs = phase == "teacher outputs" and origin.teacher_outputs.batch_size > 1
        return ("a smaller teacher_outputs.batch_size",) if outputs else ()
    setup = make_setup(
        spec.method,
        spec.settings,
        origin.student,
        origin.teacher,
        lora=spec.lora,
        own=spec.teacher,
        devices=spec.place.processes,
        shard_student=spec.place.shard_student,
    )
    return tuple(advice(setup, REMEDIES if helps_training(phase) else _OF_WEIGHTS))


def divergence_remedies(spec: TrialSpec) -> tuple[str, ...]:
    """Return what may keep a training from diverging again."""
    settings = spec.settings
    found = ["a lower learning_rate", "a higher warmup_ratio"]
    if settings.max_grad_norm == 0:
        found.append("max_grad_norm: 1.0")
    if not settings.disable_dropout:
        found.append("disable_dropout: true")
    if spec.method == "gkd":
        noisy = settings.teacher_signal == "sampled"
        served = spec.origin.teacher.server is not None
        exact = f"teacher_signal: {'top_k' if served else 'exact'}"
        found.append(exact if noisy else "another beta")
    return tuple(found)


_BLOCKING = "CUDA_LAUNCH_BLOCKING=1 in the environment, with which the log names the operation"
_OF_DEVICES: Mapping[str, tuple[str, ...]] = {
    "device_assert": (
        _BLOCKING,
        "compute.device: cpu for one trial, where the error names the index",
        "a tokenizer whose ids are all below the model's vocab_size",
    ),
    "failed_kernel": (
        _BLOCKING,
        "another version of torch or of the NVIDIA driver",
    ),
    "faulty_device": (
        "nvidia-smi -q and the kernel's log (dmesg | grep -i xid) on that machine",
        "a restart of the machine",
        "CUDA_VISIBLE_DEVICES without the device",
    ),
    "driver": (
        "an NVIDIA driver that fits the installed torch (nvidia-smi shows its version)",
        "a build of torch that fits the driver and the device",
    ),
    "communication": (
        "NCCL_DEBUG=INFO in the environment, with which the log names the connection",
        "compute.devices_per_trial: 1",
    ),
}
"""What to try after a fault of a device, by the kind of failure, in the order to try it."""


def device_remedies(kind: str) -> tuple[str, ...]:
    """Return what to try after a failure that a device reported; nothing after any other."""
    return _OF_DEVICES.get(kind, ())


def speed_remedies(spec: TrialSpec, phase: str) -> tuple[str, ...]:
    """Return what may make a trial faster that took too long.

    Args:
        spec: The trial's spec.
        phase: Phase in which its time ran out.
    """
    if phase in _SCORING:
        return ("a larger evaluation.batch_size", "fewer documents in the suite")
    settings, origin = spec.settings, spec.origin
    samples = spec.method == "gkd" and settings.lmbda > 0
    found = []
    if samples:
        found.append("a lower max_new_tokens")
    if settings.gradient_accumulation_steps > 1:
        found.append(
            "a larger per_device_train_batch_size with fewer gradient_accumulation_steps, if memory"
            " allows it"
        )
    if samples and settings.rollout_batch_size is not None:
        found.append("a larger rollout_batch_size")
    served = origin.teacher.server is not None
    loaded = [origin.teacher] if _asks_teacher(spec) and not served else []
    if any(model.is_eager() for model in (origin.student, *loaded)):
        found.append("the model's default attention (without attn_implementation: eager)")
    if not all(model.compile for model in loaded):
        found.append("teacher.compile: true")
    if _asks_teacher(spec) and served:
        found.append("a higher teacher.server.concurrency")
    found.append("fewer max_steps")
    if _asks_teacher(spec):
        found.append("an arm seqkd, which asks the teacher once")
    return tuple(found)


def _asks_teacher(spec: TrialSpec) -> bool:
    return spec.method in ("gkd", "supervised_kd")
