"""Settings as TRL's training arguments."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import TrainingArguments
from trl import SFTConfig

from sweeper.config.settings import Method, MethodSettings
from sweeper.distillation.models.late_bitsandbytes import import_bitsandbytes
from sweeper.distillation.trainers.trl_gkd import GKDConfig
from sweeper.foundation.errors import BadInputError


def uses_teacher(method: Method) -> bool:
    """Return whether the method's loss compares with the teacher, token by token."""
    return method in ("gkd", "supervised_kd")


def argument_names(method: Method) -> set[str]:
    """Return the arguments of the method's TRL configuration class, which ``extra`` may name."""
    return {item.name for item in fields(_config_class(method)) if item.init}


def _config_class(method: Method) -> Any:
    """Return the method's TRL configuration class."""
    return GKDConfig if uses_teacher(method) else SFTConfig


def arguments(
    method: Method, settings: MethodSettings, *, output_dir: str, device: str, seed: int
) -> Any:
    """Build TRL's training arguments for ``settings``.

    Args:
        method: Method, which decides the class: ``GKDConfig`` or ``SFTConfig``.
        settings: Settings of the trial.
        output_dir: Directory that the trainer may write to.
        device: Torch device.
        seed: Seed of the data order and of dropout.

    Raises:
        BadInputError: The class refuses a value, or ``extra`` names an argument that sweeper sets.
    """
    stock = settings.engine == "trl"
    kind = _config_class(method) if stock else TrainingArguments
    if settings.optim != MethodSettings.model_fields["optim"].default:
        # Many other optimisers come from it.
        import_bitsandbytes()
    values: dict[str, Any] = {
        name: getattr(settings, name)
        for name in (
            "max_steps",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "lr_scheduler_type",
            "weight_decay",
            "adam_beta1",
            "adam_beta2",
            "adam_epsilon",
            "max_grad_norm",
            "optim",
            "bf16",
            "fp16",
            "logging_steps",
        )
    }
    values.update(
        # Transformers' new name; the old one warns.
        activation_checkpointing=settings.gradient_checkpointing,
        # This version has no warmup_ratio; a whole number of steps is unambiguous.
        warmup_steps=round(settings.warmup_ratio * settings.max_steps),
        output_dir=output_dir,
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        # A NaN must be detected, not averaged away.
        logging_nan_inf_filter=False,
        dataloader_pin_memory=device != "cpu",
        # Each process divides its loss by the tokens of all processes.
        average_tokens_across_devices=True,
    )
    if not stock:
        values["remove_unused_columns"] = False
    else:
        values["max_length"] = settings.max_length
    if stock and uses_teacher(method):
        values.update(
            temperature=settings.temperature,
            lmbda=settings.lmbda,
            beta=settings.beta,
            max_new_tokens=settings.max_new_tokens,
            disable_dropout=settings.disable_dropout,
            seq_kd=settings.seq_kd,
        )
    clash = sorted(set(settings.extra) & (set(values) | {"warmup_ratio", "gradient_checkpointing"}))
    if clash:
        raise BadInputError(f"training.extra names {clash[0]!r}, which is a setting of its own.")
    # All parameters take part in each step, and buffers are equal.
    copies = {"ddp_find_unused_parameters": False, "ddp_broadcast_buffers": False}
    try:
        return kind(**values, **{**copies, **settings.extra})
    except (TypeError, ValueError) as error:
        raise BadInputError(f"{kind.__name__} refuses the settings: {error}") from error
