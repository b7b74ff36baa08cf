"""The settings of one training job: what can be fixed for a study or an arm, or searched.

A setting's full name is a key of ``MethodSettings``, or one of these dotted names:

- ``extra.NAME``: a further argument of the trainer;
- ``lr_scheduler_kwargs.NAME``: an argument of the schedule;
- ``teacher.model``, ``teacher.dtype``, ``teacher.quantization``, ``teacher.init_kwargs.NAME``: the
  teacher of an arm;
- ``lora.r``, ``lora.alpha``, ``lora.dropout``, ``lora.use_rslora``, ``lora.use_dora``: the adapter,
  when the student has one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from sweeper.config.base import (
    Dtype,
    Fraction,
    Json,
    JsonMapping,
    PositiveFloat,
    PositiveInt,
    Scalar,
    Strict,
    expectation,
    short,
)
from sweeper.config.models import Quantization, init_kwarg_problem
from sweeper.foundation.secrets import is_secret_name

Method = Literal["sft", "seqkd", "supervised_kd", "gkd"]
METHODS: tuple[Method, ...] = ("sft", "seqkd", "supervised_kd", "gkd")
OFFLINE_METHODS: tuple[Method, ...] = ("sft", "seqkd", "supervised_kd")

LearningRateSchedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "polynomial",
    "warmup_stable_decay",
]
"""transformers' schedules that follow from the step alone."""
TeacherSignal = Literal["exact", "top_k", "sampled"]

_KWARGS = "lr_scheduler_kwargs"


class TrainingConfig(Strict):
    """How students are trained: the useful keys of transformers' ``TrainingArguments``."""

    max_steps: PositiveInt = 500
    """Optimiser steps of one trial."""
    num_train_epochs: PositiveFloat | None = None
    """Passes of one trial over the training data, in place of `max_steps`."""
    per_device_train_batch_size: PositiveInt = 8
    """Sequences in one micro-batch."""
    gradient_accumulation_steps: PositiveInt = 1
    """Micro-batches in one optimiser step."""
    learning_rate: PositiveFloat = 2.0e-5
    """The peak learning rate."""
    lr_scheduler_type: LearningRateSchedule = "linear"
    """Course of the learning rate after the warm-up."""
    lr_scheduler_kwargs: JsonMapping = {}
    """Arguments of that schedule, such as `{min_lr_rate: 0.1}` for `cosine_with_min_lr`; arms may
    fix or search one by the name `lr_scheduler_kwargs.NAME`."""
    warmup_ratio: Fraction = 0.0
    """The share of the steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's decay rate of the first moment."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's decay rate of the second moment."""
    adam_epsilon: PositiveFloat = 1.0e-8
    """AdamW's term against division by zero."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 turns that off."""
    optim: str = "adamw_torch"
    """The optimiser, by transformers' name for it. On GPUs with bfloat16 `adamw_torch_fused` by
    default."""
    max_length: PositiveInt = 1024
    """The longest sequence in tokens; longer ones are cut at their end, and prompts that leave no
    room for an answer are dropped (and counted)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    bf16: bool = False
    """Compute in bfloat16 autocast. True by default on GPUs that have it (compute capability 8 or
    more), unless the study file asks for float16."""
    tf32: bool = False
    """Round the factors of float32 products to TF32 in training, never in scores (GPUs only). True
    by default where `bf16` is."""
    fp16: bool = False
    """Compute in float16 autocast with loss scaling (GPUs only)."""
    logging_steps: PositiveInt = 5
    """Optimiser steps between two points of the training curve."""
    checkpoint_every: PositiveInt | None = None
    """Optimiser steps between two checkpoints, from which an interrupted trial resumes; by default
    it starts again. Results do not depend on it."""
    engine: Literal["sweeper", "trl", "trl-distillation"] = "sweeper"
    """`trl` runs TRL's `SFTTrainer` and `GKDTrainer` as they are, with the differences that the
    documentation lists; `trl-distillation` its `DistillationTrainer`, for `gkd` at `lmbda: 1`."""
    stock_normalization: bool = False
    """Divide the on-policy loss by the reference's token count, as stock TRL does, instead of by
    the tokens that were generated."""
    length_bucketing: bool = True
    """Put sequences of similar length into the same micro-batch: less padding."""
    extra: JsonMapping = {}
    """Further arguments of the trainer: `neftune_noise_alpha` and `optim_args`; with `engine: trl`
    a few of TRL's own."""

    @model_validator(mode="before")
    @classmethod
    def _understand_earlier_place(cls, values: Any) -> Any:
        """Read the schedule's arguments from ``extra``, where they stood in earlier versions."""
        extra = values.get("extra") if isinstance(values, dict) else None
        if not isinstance(extra, dict) or _KWARGS not in extra or _KWARGS in values:
            return values
        rest = {name: value for name, value in extra.items() if name != _KWARGS}
        return {**values, "extra": rest, _KWARGS: extra[_KWARGS]}


class MethodSettings(TrainingConfig):
    """All settings of a method: training keys and the parameters of GKD."""

    temperature: PositiveFloat = 0.9
    """Sampling temperature of the student's rollouts; the loss never sees it."""
    max_new_tokens: PositiveInt = 128
    """The longest rollout in tokens."""
    rollout_batch_size: PositiveInt | None = None
    """Rollouts sampled at a time; by default all of an optimiser step, which is fastest. Fewer take
    less memory, and give the same answers but for rounding."""
    lmbda: Fraction = 0.5
    """The share of micro-batches whose sequences the student generates."""
    beta: Fraction = 0.5
    """The divergence: 0 = KL(teacher‖student), 1 = KL(student‖teacher), between them the
    generalized JSD."""
    teacher_signal: TeacherSignal = "exact"
    """How much of the teacher's next-token distribution the loss reads: all of it, its
    `teacher_top_k` most likely tokens and the mass of the rest, or the probability of the token
    that the student `sampled` (`gkd` at `lmbda: 1`; an estimate of the loss of `beta: 1`). A served
    teacher gives the last two."""
    teacher_top_k: PositiveInt = 16
    """Number of tokens of `teacher_signal: top_k`, at most those of the vocabulary."""
    disable_dropout: bool = True
    """Train without dropout, the adapter's included."""
    seq_kd: bool = False
    """Take the off-policy sequences from the stored teacher outputs, not from the references."""


TRAINING_KEYS = frozenset(TrainingConfig.model_fields)
GKD_KEYS = frozenset(MethodSettings.model_fields) - TRAINING_KEYS
ON_POLICY_KEYS = ("temperature", "max_new_tokens")
"""Settings that shape rollouts only, and so are dead at lmbda 0."""

METHOD_KEYS: dict[Method, frozenset[str]] = {
    "sft": frozenset({"disable_dropout"}),
    "seqkd": frozenset({"disable_dropout"}),
    "supervised_kd": frozenset({"disable_dropout", "seq_kd", "teacher_signal", "teacher_top_k"}),
    "gkd": GKD_KEYS,
}
NOT_SEARCHABLE = {
    "checkpoint_every",
    "engine",
    "extra",
    "length_bucketing",
    "logging_steps",
    "lr_scheduler_kwargs",
    "rollout_batch_size",
}
DOTTED: dict[str, Any] = {
    "teacher.model": TypeAdapter(Annotated[str, Field(min_length=1)]),
    "teacher.dtype": TypeAdapter(Dtype),
    "teacher.quantization": TypeAdapter(Quantization | None),
    "lora.r": TypeAdapter(PositiveInt),
    "lora.alpha": TypeAdapter(PositiveFloat),
    "lora.dropout": TypeAdapter(Annotated[float, Field(ge=0, lt=1)]),
    "lora.use_rslora": TypeAdapter(bool),
    "lora.use_dora": TypeAdapter(bool),
}
INIT_KWARGS = "teacher.init_kwargs."
_OPEN: dict[str, Any] = {
    "extra.": TypeAdapter(Json),
    "lr_scheduler_kwargs.": TypeAdapter(Json),
    INIT_KWARGS: TypeAdapter(Scalar, config={"allow_inf_nan": False}),
}
"""Prefixes of settings that may have any name."""


def value_problem(name: str, value: Any) -> str | None:
    """Say why the setting ``name`` cannot be ``value``; None if it can."""
    if name.startswith(INIT_KWARGS):
        argument = name.removeprefix(INIT_KWARGS)
        if message := init_kwarg_problem(argument, value):
            return message
    if name == "teacher.dtype" and value in get_args(Quantization):
        return f"expected the key teacher.quantization for {value}"
    if adapter := DOTTED.get(name) or _OPEN.get(_open_prefix(name)):
        message = _type_problem(adapter, value)
        if message and is_secret_name(name):
            return message.partition(", found ")[0] + ", found something else"
        return message
    field = MethodSettings.model_fields[name]
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    return _type_problem(TypeAdapter(annotation, config={"allow_inf_nan": False}), value)


def is_setting(name: str) -> bool:
    """Return True if ``name`` is the name of a setting, even one that a method does not use."""
    return name in DOTTED or bool(_open_prefix(name)) or name in MethodSettings.model_fields


def _open_prefix(name: str) -> str:
    """Return the key of ``_OPEN`` that ``name`` begins with, or nothing."""
    return next((p for p in _OPEN if name.startswith(p) and name.split(".")[-1]), "")


def _type_problem(adapter: TypeAdapter[Any], value: Any) -> str | None:
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        expected = " or ".join(dict.fromkeys(expectation(d) for d in error.errors()))
        return f"expected {expected}, found {short(value)}"
    return None


def resolve(training: TrainingConfig, *layers: dict[str, Any]) -> MethodSettings:
    """Put the ``layers`` over the study's ``training`` keys, later ones winning.

    Other dotted names than those of ``extra`` and ``lr_scheduler_kwargs`` belong to models, not to
    settings, and are passed over (``model_settings`` reads them). Of steps and epochs the last one
    counts.

    Raises:
        ValidationError: A value does not fit; values from a checked study file always do.
    """
    values: dict[str, Any] = training.model_dump(exclude_unset=True)
    extra = dict(values.pop("extra", {}))
    schedule = dict(values.pop(_KWARGS, {}))
    for layer in layers:
        if "max_steps" in layer:
            values.pop("num_train_epochs", None)
        # The arguments of another schedule are others.
        schedule = dict(layer.get(_KWARGS, schedule))
        for name, value in layer.items():
            if name == "extra":
                extra.update(value)
            elif name.startswith("extra."):
                extra[name.removeprefix("extra.")] = value
            elif name.startswith(f"{_KWARGS}."):
                schedule[name.removeprefix(f"{_KWARGS}.")] = value
            elif name == _KWARGS:
                continue
            elif name in MethodSettings.model_fields:
                values[name] = value
    return MethodSettings.model_validate({**values, "extra": extra, _KWARGS: schedule})


def in_steps(settings: MethodSettings, rows: int | None, devices: int) -> MethodSettings:
    """Return settings whose ``max_steps`` are those of ``num_train_epochs``, if it is given.

    Args:
        settings: Settings of a training.
        rows: Rows that it trains on; None if they have not been counted.
        devices: Number of devices that train together.
    """
    if settings.num_train_epochs is None or rows is None:
        return settings
    window = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * devices
    steps = max(1, math.ceil(settings.num_train_epochs * rows / window))
    return settings.model_copy(update={"max_steps": steps})


def effective(method: Method, settings: MethodSettings) -> MethodSettings:
    """Return the settings as the method uses them.

    Supervised KD is GKD at lmbda 0 and beta 0; one sampled token estimates the loss of beta 1.
    """
    if method == "supervised_kd":
        return settings.model_copy(update={"lmbda": 0.0, "beta": 0.0})
    if method == "gkd" and settings.teacher_signal == "sampled":
        return settings.model_copy(update={"beta": 1.0})
    return settings


def without_effect(
    method: Method, lmbda: object, signal: TeacherSignal | None = None
) -> frozenset[str]:
    """Return the settings of ``method`` that change nothing at some values of others.

    At ``lmbda`` 0 nothing is sampled from the student. At 1 every sequence is, so none comes from
    the data or from the teacher's answers.

    Args:
        method: Method of the arm.
        lmbda: Share of on-policy sequences; None if it is not yet known.
        signal: What the loss reads of the teacher; None if it is not yet known.
    """
    idle: set[str] = set()
    if method == "gkd" and lmbda == 0:
        idle |= {*ON_POLICY_KEYS, "stock_normalization"}
    if method == "gkd" and lmbda == 1:
        idle.add("seq_kd")
    if signal == "sampled":
        idle.add("beta")
    if signal in ("exact", "sampled"):
        idle.add("teacher_top_k")
    return frozenset(idle)


DECISIVE = ("lmbda", "disable_dropout", "teacher_signal")
"""Settings whose values leave others without effect."""
_DECIDED_BY = {
    "lora.dropout": "disable_dropout",
    "beta": "teacher_signal",
    "teacher_top_k": "teacher_signal",
}


def deciding(name: str) -> str:
    """Return the setting that decides if ``name`` has an effect."""
    return _DECIDED_BY.get(name, "lmbda")


def is_dead(method: Method, name: str, values: Mapping[str, Any]) -> bool:
    """Return True if the setting ``name`` can have no effect next to ``values``."""
    if name == "lora.dropout":
        return bool(values.get("disable_dropout", True))
    signal = values.get("teacher_signal", "exact")
    return name in without_effect(method, values.get("lmbda"), signal)


def model_settings(prefix: str, *layers: dict[str, Any]) -> dict[str, Scalar]:
    """Return the dotted settings below ``prefix`` (``teacher`` or ``lora``), without the prefix."""
    found: dict[str, Scalar] = {}
    for layer in layers:
        for name, value in layer.items():
            if name.startswith(f"{prefix}."):
                found[name.removeprefix(f"{prefix}.")] = value
    return found
