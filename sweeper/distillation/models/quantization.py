"""Quantization of linear layers to 8 or 4 bits, by bitsandbytes.

8 bits are LLM.int8 (https://arxiv.org/abs/2208.07339), 4 bits the NF4 of QLoRA
(https://arxiv.org/abs/2305.14314). Embeddings and the head stay in the model's own type.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PretrainedConfig

from sweeper.config.models import ModelConfig
from sweeper.foundation.errors import BadInputError


def check_quantization(model: ModelConfig, config: PretrainedConfig) -> None:
    """Check that the model's weights can be quantized here.

    Raises:
        BadInputError: bitsandbytes is missing, or the weights are stored quantized already.
    """
    if model.quantization is None:
        return
    if find_spec("bitsandbytes") is None:
        raise BadInputError(
            f"{model.quantization} needs bitsandbytes, which is not installed:"
            " pip install 'sweeper[quantization]'"
        )
    if (stored := getattr(config, "quantization_config", None)) is not None:
        values = stored if isinstance(stored, dict) else stored.to_dict()
        raise BadInputError(
            f"expected none, because the weights of {model.model} are stored quantized already"
            f" ({values.get('quant_method', 'by a method without a name')})"
        )


def load_options(model: ModelConfig, dtype: str, device: str) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that quantize the weights on ``device``.

    Raises:
        BadInputError: The device is Apple's, where bitsandbytes computes with code from a hub.
    """
    if device.startswith("mps"):
        raise BadInputError(
            f"{model.quantization} needs code from a hub on {device}: use compute.device: cpu, or"
            " a model that is not quantized"
        )
    if model.quantization == "int8":
        how = BitsAndBytesConfig(load_in_8bit=True)
    else:
        # By default NF4's products are computed in float32 whatever the model's type.
        computing = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
        how = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computing
        )
    return {"quantization_config": how, "device_map": {"": device}}


def keep_trainable(model: Any) -> None:
    """Keep 4-bit layers on a CPU in the form that gradients pass through.

    On processors with bfloat16 instructions the first answer packs them for inference: from then on
    they pass no gradient, and compute other last digits.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
