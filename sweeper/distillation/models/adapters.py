"""Low-rank adapters: added to a student, and merged into its weights after training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sweeper.config.base import Scalar
from sweeper.config.models import LoraConfig, ModelConfig
from sweeper.distillation.models.late_bitsandbytes import import_bitsandbytes
from sweeper.distillation.models.loading import load_model


def add_adapter(
    model: PreTrainedModel, lora: LoraConfig, changes: dict[str, Scalar], seed: int
) -> Any:
    """Return the model with a fresh low-rank adapter, initialised from ``seed``.

    Its own weights are frozen in place. ``changes`` are the arm's own ``r``, ``alpha`` or
    ``dropout``.
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


def adapter_weights(model: Any) -> Iterator[Tensor]:
    """Yield the weights of low-rank adapters, which PEFT keeps in float32 on a model in 16 bits."""
    for layer in model.modules():
        if hasattr(layer, "base_layer"):
            for name in getattr(layer, "adapter_layer_names", ()):
                part = getattr(layer, name, None)
                if isinstance(part, nn.Module):
                    yield from part.parameters()


def merge_adapter(trained: Any, student: ModelConfig, device: str, seed: int) -> Any:
    """Return the trained student as one model, with its adapter merged into its weights.

    Quantized weights would be rounded once more, so their adapter is merged into the weights as
    they are stored, which are loaded again.
    """
    if not hasattr(trained, "merge_and_unload"):
        return trained
    if student.quantization is None:
        return trained.merge_and_unload()
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    stored = load_model(student.model_copy(update={"quantization": None}), device, seed=seed)
    adapted = get_peft_model(stored, trained.peft_config[trained.active_adapter])
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(trained))
    return adapted.merge_and_unload()
