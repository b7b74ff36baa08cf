"""Tiny configurations of the families of models that people distil."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers as library
from transformers import PretrainedConfig

from tests.support.sampled_models import SIZES, VOCABULARY

_PLAIN = {key: value for key, value in SIZES.items() if key != "head_dim"}
_FOUR = {**SIZES, "num_hidden_layers": 4}
_ALTERNATING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_TWICE = {**_ALTERNATING, "layer_types": _ALTERNATING["layer_types"] * 2}  # type: ignore[operator]
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
_NANO = {"vocab_size": VOCABULARY, "hidden_size": 32, "bos_token_id": 1, "eos_token_id": 2}
_FEW = {**_NANO, "num_hidden_layers": 2, "num_attention_heads": 4}


def _named(name: str, **options: Any) -> Callable[[], PretrainedConfig]:
    return lambda: getattr(library, name)(**options)  # type: ignore[no-any-return]


CONFIGS: Mapping[str, Callable[[], PretrainedConfig]] = {
    "bamba": _named("BambaConfig", **_PLAIN, **_MAMBA, attn_layer_indices=[1]),
    "bloom": _named("BloomConfig", **_NANO, n_layer=2, n_head=4),
    "cohere2": _named("Cohere2Config", **_PLAIN, **_ALTERNATING),
    "deepseek_v3": _named(
        "DeepseekV3Config",
        **{**_PLAIN, "num_key_value_heads": 4},
        moe_intermediate_size=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        first_k_dense_replace=1,
        n_shared_experts=1,
    ),
    "exaone4": _named("Exaone4Config", **SIZES, **_ALTERNATING),
    "falcon_h1": _named(
        "FalconH1Config", **SIZES, **{**_MAMBA, "mamba_n_heads": 4}, mamba_d_ssm=32
    ),
    "gemma": _named("GemmaConfig", **SIZES),
    "gemma2": _named("Gemma2Config", **SIZES, sliding_window=8, query_pre_attn_scalar=8),
    "gemma3": _named("Gemma3TextConfig", **SIZES, **_ALTERNATING, query_pre_attn_scalar=8),
    "gemma3n": _named(
        "Gemma3nTextConfig",
        **_FOUR,
        **_TWICE,
        num_kv_shared_layers=2,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        altup_num_inputs=2,
        activation_sparsity_pattern=[0.0] * 4,
    ),
    "gemma4": _named(
        "Gemma4TextConfig",
        **_FOUR,
        **_TWICE,
        num_kv_shared_layers=2,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=8,
        global_head_dim=16,
    ),
    "gpt2": _named("GPT2Config", **{**_NANO, "n_positions": 64}, n_layer=2, n_head=4),
    "gpt_neo": _named(
        "GPTNeoConfig",
        **_NANO,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        max_position_embeddings=64,
    ),
    "gpt_neox": _named("GPTNeoXConfig", **_FEW, intermediate_size=48),
    "gpt_oss": _named(
        "GptOssConfig", **SIZES, **_ALTERNATING, num_local_experts=4, num_experts_per_tok=2
    ),
    "granite_hybrid": _named(
        "GraniteMoeHybridConfig",
        **_PLAIN,
        **_MAMBA,
        layer_types=["mamba", "attention"],
        num_local_experts=0,
        shared_intermediate_size=48,
    ),
    "jamba": _named(
        "JambaConfig",
        **_PLAIN,
        attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=2,
        mamba_d_state=4,
        mamba_dt_rank=4,
    ),
    "lfm2": _named(
        "Lfm2Config",
        **_PLAIN,
        layer_types=["conv", "full_attention"],
        block_auto_adjust_ff_dim=False,
    ),
    "lfm2_moe": _named(
        "Lfm2MoeConfig",
        **_PLAIN,
        **_EXPERTS,
        layer_types=["conv", "full_attention"],
        num_dense_layers=1,
    ),
    "llama": _named("LlamaConfig", **SIZES),
    "llama4": _named(
        "Llama4TextConfig",
        **SIZES,
        intermediate_size_mlp=48,
        num_local_experts=4,
        attention_chunk_size=8,
        layer_types=["chunked_attention", "full_attention"],
    ),
    "mamba": _named("MambaConfig", **_NANO, num_hidden_layers=2, state_size=4),
    "minimax": _named(
        "MiniMaxConfig", **SIZES, layer_types=_LINEAR["layer_types"], num_local_experts=2
    ),
    "ministral": _named("MinistralConfig", **SIZES, **_ALTERNATING),
    "mistral": _named("MistralConfig", **SIZES, sliding_window=8),
    "mixtral": _named("MixtralConfig", **SIZES, num_local_experts=4),
    "nemotron_h": _named(
        "NemotronHConfig",
        **_PLAIN,
        layers_block_type=["mamba", "attention"],
        mamba_num_heads=8,
        mamba_head_dim=8,
        ssm_state_size=8,
        n_groups=1,
    ),
    "olmo3": _named("Olmo3Config", **_PLAIN, **_ALTERNATING),
    "olmo_hybrid": _named("OlmoHybridConfig", **_PLAIN, **_LINEAR),
    "opt": _named(
        "OPTConfig", **_FEW, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64
    ),
    "phi3": _named("Phi3Config", **_PLAIN),
    "qwen2": _named("Qwen2Config", **SIZES),
    "qwen3": _named("Qwen3Config", **SIZES),
    "qwen3_5": _named("Qwen3_5TextConfig", **SIZES, **_LINEAR),
    "qwen3_moe": _named("Qwen3MoeConfig", **SIZES, **_EXPERTS),
    "qwen3_next": _named(
        "Qwen3NextConfig", **SIZES, **_LINEAR, **_EXPERTS, shared_expert_intermediate_size=16
    ),
    "recurrent_gemma": _named("RecurrentGemmaConfig", **_PLAIN, attention_window_size=8),
    "smollm3": _named("SmolLM3Config", **_PLAIN),
    "stablelm": _named("StableLmConfig", **_PLAIN),
    "zamba2": _named(
        "Zamba2Config",
        **{**_PLAIN, "num_hidden_layers": 3},
        layers_block_type=["mamba", "hybrid", "mamba"],
        mamba_d_state=8,
        mamba_ngroups=1,
        n_mamba_heads=8,
        mamba_headdim=8,
    ),
}
"""A configuration by family."""
SLOW: Mapping[str, str] = {
    "bloom": "does not take position_ids",
    "gpt_neo": "not made for states in fixed places",
    "llama4": "attention is in chunks",
    "mamba": "does not take past_key_values, position_ids",
    "minimax": "not made for states in fixed places",
    "recurrent_gemma": "not made for states in fixed places",
}
"""Why families cannot be decoded with fixed shapes; all others can."""
EXPERTS = {"deepseek_v3", "gpt_oss", "jamba", "lfm2_moe", "mixtral", "qwen3_moe", "qwen3_next"}
"""Families with experts."""
