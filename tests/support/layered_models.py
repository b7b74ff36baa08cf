"""Tiny models of six layers, of architectures that name and describe their layers differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

LAYERS = 6
COMMON = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"head_dim": 8, "sliding_window": 4}
EXPERTS = {"num_experts_per_tok": 2}
ARCHITECTURES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, COMMON),
    "mistral": (MistralConfig, COMMON | WINDOW),
    "qwen2": (Qwen2Config, COMMON | {"use_sliding_window": True, "max_window_layers": 3}),
    "qwen3": (Qwen3Config, COMMON | WINDOW | {"use_sliding_window": True, "max_window_layers": 3}),
    "gemma": (GemmaConfig, COMMON | {"head_dim": 8}),
    "gemma2": (Gemma2Config, COMMON | WINDOW),
    "gemma3": (Gemma3TextConfig, COMMON | WINDOW),
    # As many experts in a layer as there are layers.
    "mixtral": (MixtralConfig, COMMON | EXPERTS | {"num_local_experts": LAYERS}),
    "gpt2": (
        GPT2Config,
        {"vocab_size": 32, "n_embd": 16, "n_layer": LAYERS, "n_head": 2, "n_positions": 64}
        | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "gpt_neo": (
        GPTNeoConfig,
        {"vocab_size": 32, "hidden_size": 16, "num_layers": LAYERS, "num_heads": 2}
        | {"attention_types": [[["global", "local"], LAYERS // 2]], "window_size": 4}
        | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "gpt_neox": (
        GPTNeoXConfig,
        {key: value for key, value in COMMON.items() if key != "num_key_value_heads"},
    ),
}


def write_model(config: PretrainedConfig, directory: Path) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return str(directory)


def write(architecture: str, directory: Path) -> str:
    kind, values = ARCHITECTURES[architecture]
    return write_model(kind(**values), directory)
