"""Low-rank adapters: put onto a student, and into its weights when it is trained."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from sweeper.config.base import Scalar
from sweeper.config.models import LoraConfig, ModelConfig
from sweeper.distillation.models.late_bitsandbytes import import_bitsandbytes
from sweeper.distillation.models.loading import load_model


def add_adapter(
    model: PreTrainedModel, lora: LoraConfig, changes: dict[str, Scalar], seed: int
) -> Any:
    """The model with a fresh low-rank adapter, initialised from ``seed``.

    Args:
        model: Its weights are frozen in place.
        lora: The study's adapter.
        changes: The arm's own ``r``, ``alpha`` or ``dropout``.
        seed: Of the adapter's initialisation.
    """
    import_bitsandbytes()
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    values = {**lora.model_dump(), **changes}
    modules = values["target_modules"]
    config = PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=values["r"],
        lora_alpha=values["alpha"],
        lora_dropout=values["dropout"],
        target_modules=modules if isinstance(modules, str) else list(modules),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def merge_adapter(trained: Any, student: ModelConfig, device: str, seed: int) -> Any:
    """The trained student as one model: what its adapter adds is in its weights.

    Quantized weights would be rounded once more, so there the adapter goes onto the weights as they
    are stored.

    Args:
        trained: The student, with its adapter if it has one.
        student: What it was loaded by.
        device: Where to load it again, if it was quantized.
        seed: As for ``load_model``.
    """
    if not hasattr(trained, "merge_and_unload"):
        return trained
    if student.quantization is None:
        return trained.merge_and_unload()
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    stored = load_model(student.model_copy(update={"quantization": None}), device, seed=seed)
    whole = get_peft_model(stored, trained.peft_config[trained.active_adapter])
    set_peft_model_state_dict(whole, get_peft_model_state_dict(trained))
    return whole.merge_and_unload()
