"""A student's weights for another program: its logits are the student's, which stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sweeper.config.models import LoraConfig, ModelConfig
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.models.plain_weights import stored_weights, write_weights
from tests.support.tiny_models import ARCHITECTURES, make_tiny

TOKENS = torch.tensor([[5, 9, 12, 7, 20, 3]])
KINDS: dict[str, dict[str, Any] | None] = {
    "whole": None,
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "saved norm": {"modules_to_save": ["norm"]},
    "attention and router": {"target_modules": ["q_proj"], "modules_to_save": ["gate"]},
}


def trained(path: str, lora: dict[str, Any] | None) -> Any:
    """A student that is no more what it was loaded as."""
    model: Any = load_model(ModelConfig(model=path), "cpu")
    if lora is not None:
        model = add_adapter(model, LoraConfig.model_validate(lora), {}, seed=1)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights += 0.05 * torch.randn(weights.shape, generator=generator)
    return model.train()


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        *((architecture, "whole") for architecture in ARCHITECTURES),
        *((architecture, "lora") for architecture in ("llama3", "gemma2", "gpt2")),
        ("qwen3_moe", "attention and router"),
        *(("qwen2", kind) for kind in ("lora", "dora", "rslora", "saved norm")),
    ],
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
def test_the_written_student_has_the_logits_of_the_trained_one(
    architecture: str, kind: str, tmp_path: Path
) -> None:
    model = trained(make_tiny(tmp_path / "start", architecture), KINDS[kind])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    write_weights(model, tmp_path / "written", torch.float32)
    after = model.state_dict()
    assert {name: value.data_ptr() for name, value in after.items()} == places
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert model.training
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "written").eval()
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            written(TOKENS).logits, model(TOKENS).logits, rtol=1e-4, atol=1e-4
        )
    loss = model(TOKENS, labels=TOKENS).loss
    loss.backward()
    assert all(w.grad is not None for w in model.parameters() if w.requires_grad)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stored_weights_are_those_of_the_files_each_once(architecture: str, tmp_path: Path) -> None:
    path = make_tiny(tmp_path / "start", architecture)
    model = load_model(ModelConfig(model=path), "cpu")
    found = stored_weights(model, torch.float32, "cpu")
    stored = load_file(Path(path) / "model.safetensors")
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], value) for name, value in stored.items())


def test_weights_have_the_names_and_types_that_were_asked_for(tmp_path: Path) -> None:
    path = make_tiny(tmp_path / "start", "qwen2")
    write_weights(trained(path, {}), tmp_path / "written", torch.bfloat16)
    written = load_file(tmp_path / "written" / "model.safetensors")
    stored = load_file(Path(path) / "model.safetensors")
    assert {name: value.shape for name, value in written.items()} == {
        name: value.shape for name, value in stored.items()
    }
    assert {value.dtype for value in written.values()} == {torch.bfloat16}


def test_a_tied_head_may_be_written_as_one_of_its_own(tmp_path: Path) -> None:
    model: Any = load_model(ModelConfig(model="builtin/adder-teacher"), "cpu")
    assert model.config.tie_word_embeddings
    write_weights(model, tmp_path / "written", torch.float32, untied=True)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "written").eval()
    assert not written.config.tie_word_embeddings
    assert written.lm_head.weight.data_ptr() != written.get_input_embeddings().weight.data_ptr()
    with torch.no_grad():
        torch.testing.assert_close(written(TOKENS % 18).logits, model(TOKENS % 18).logits)
