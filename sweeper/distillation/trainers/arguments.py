"""Settings as training arguments, transformers' own or TRL's."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments
from trl import DistillationConfig, SFTConfig

from sweeper.config.settings import Method, MethodSettings
from sweeper.distillation.distributed import allow_old_drivers
from sweeper.distillation.models.late_bitsandbytes import import_bitsandbytes
from sweeper.distillation.trainers.trl_gkd import GKDConfig
from sweeper.foundation.errors import BadInputError


def uses_teacher(method: Method) -> bool:
    """Return whether the method's loss compares with the teacher, token by token."""
    return method in ("gkd", "supervised_kd")


def _config_class(method: Method, engine: str) -> Any:
    """Return the class of the arguments: transformers' own, or one of TRL's for its trainers."""
    if engine == "trl-distillation":
        return DistillationConfig
    if engine == "trl":
        return GKDConfig if uses_teacher(method) else SFTConfig
    return TrainingArguments


def arguments(
    method: Method, settings: MethodSettings, *, output_dir: str, device: str, seed: int
) -> Any:
    """Build the training arguments for ``settings``.

    Args:
        method: Method; with the engine it decides the class.
        settings: Settings of the trial.
        output_dir: Directory that the trainer may write to.
        device: Torch device.
        seed: Seed of the data order and of dropout.

    Raises:
        BadInputError: The class refuses a value.
    """
    kind = _config_class(method, settings.engine)
    allow_old_drivers(device)
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
            "lr_scheduler_kwargs",
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
        # Batches are copied to a GPU while it works.
        dataloader_pin_memory=device != "cpu",
        accelerator_config={"non_blocking": device != "cpu"},
        # Each process divides its loss by the tokens of all processes.
        average_tokens_across_devices=True,
    )
    if kind is TrainingArguments:
        values["remove_unused_columns"] = False
    elif kind is DistillationConfig:
        values.update(
            temperature=settings.temperature,
            beta=settings.beta,
            max_completion_length=settings.max_new_tokens,
            disable_dropout=settings.disable_dropout,
        )
    else:
        values["max_length"] = settings.max_length
    if kind is GKDConfig:
        values.update(
            temperature=settings.temperature,
            lmbda=settings.lmbda,
            beta=settings.beta,
            max_new_tokens=settings.max_new_tokens,
            disable_dropout=settings.disable_dropout,
            seq_kd=settings.seq_kd,
        )
    # All parameters take part in each step, and buffers are equal.
    copies = {"ddp_find_unused_parameters": False, "ddp_broadcast_buffers": False}
    try:
        return kind(**values, **{**copies, **settings.extra})
    except (TypeError, ValueError) as error:
        raise BadInputError(f"{kind.__name__} refuses the settings: {error}") from error
