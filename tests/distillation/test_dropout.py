"""Without dropout a student in training mode computes as in evaluation mode, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.trainers import without_dropout
from sweeper.records import Resources
from tests.support.tiny_models import ARCHITECTURES, make_tiny
from tests.support.training_jobs import make_study_inputs, train

HEADS: dict[str, Any] = {"num_attention_heads": 2}
WIDE: dict[str, Any] = {**HEADS, "intermediate_size": 32}
GROUPED: dict[str, Any] = {**WIDE, "num_key_value_heads": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "opt": {**HEADS, "ffn_dim": 32, "word_embed_proj_dim": 16},
    "granite": GROUPED,
    "starcoder2": GROUPED,
    "falcon": HEADS,
    "gpt_neo": {"num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    "persimmon": WIDE,
    "xglm": {"d_model": 16, "attention_heads": 2, "num_layers": 2, "ffn_dim": 32},
    "biogpt": WIDE,
    "bloom": {"n_head": 2},
    "gptj": {"n_head": 2, "rotary_dim": 4},
    "gpt_neox": WIDE,
    "gpt_bigcode": {"n_head": 2},
    "phi": WIDE,
    "stablelm": GROUPED,
    "cohere": GROUPED,
    "falcon_h1": {**GROUPED, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8},
}
"""Further families: many apply dropout by functions, and some ask the configuration each time."""
SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "pad_token_id": 0}
TOKENS = torch.arange(3, 35).view(2, 16)


def full_of_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """Set every probability of a configuration, but those of classifiers, to one half."""
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            full_of_dropout(value)
        elif "drop" in name and type(value) in (int, float):
            setattr(config, name, 0.5)
    return config


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    torch.manual_seed(1)
    found: torch.Tensor = model(TOKENS, use_cache=False).logits
    return found


@pytest.mark.parametrize("family", [*ARCHITECTURES, *FAMILIES])
def test_no_family_drops_anything(family: str) -> None:
    kind = ARCHITECTURES.get(family)
    values = {**SMALL, **(kind.values if kind else FAMILIES[family])}
    config = full_of_dropout(AutoConfig.for_model(kind.model_type if kind else family, **values))
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)
    sound = logits(model.eval())
    assert not torch.equal(logits(model.train()), sound), "there is none to turn off"
    without_dropout(model)
    assert model.training
    assert torch.equal(logits(model), sound)


def test_an_adapters_dropout_is_off_too(tmp_path: Path) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path, attention_dropout=0.5))
    model = add_adapter(base, LoraConfig(r=2, dropout=0.5), {}, seed=1)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights)
    sound = logits(model.eval())
    assert not torch.equal(logits(model.train()), sound)
    without_dropout(model)
    assert torch.equal(logits(model), sound)


def test_a_student_learns_nothing_from_itself_and_keeps_its_configuration(tmp_path: Path) -> None:
    path = make_tiny(tmp_path / "m", "llama3", attention_dropout=0.5)
    models = {"student": StudentConfig(model=path), "teacher": ModelConfig(model=path)}
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    changes: dict[str, Any] = {"learning_rate": 1e-30, "max_length": 400}
    inputs = make_study_inputs(tmp_path, **models)
    model, _, points = train(inputs, resources, "supervised_kd", **changes)
    assert all(point["loss"] == pytest.approx(0, abs=1e-7) for point in points)
    assert model.config.attention_dropout == 0.5
