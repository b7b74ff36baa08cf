"""A model that is measured in a precision is the one that the library loads in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sweeper.config.base import ScoringDtype
from sweeper.config.models import LoraConfig, ModelConfig
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.models.precision import computing_in
from tests.support.tiny_models import ARCHITECTURES, make_tiny

DTYPES: tuple[ScoringDtype, ...] = ("float32", "bfloat16", "float16")
TOKENS = torch.arange(3, 35).view(2, 16)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(TOKENS).logits
    return found


def tensors(model: Any) -> dict[str, torch.Tensor]:
    """All weights and buffers by name, the very objects."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def assert_left_alone(
    model: Any, before: dict[str, torch.Tensor], bits: list[torch.Tensor]
) -> None:
    after = tensors(model)
    assert list(after) == list(before)
    for tensor, own, bit in zip(after.values(), before.values(), bits, strict=True):
        assert tensor is own
        assert torch.equal(tensor, bit) and tensor.dtype == bit.dtype


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=[] if a == "qwen2" else pytest.mark.slow) for a in ARCHITECTURES],
)
def test_it_computes_as_the_model_that_is_loaded_in_it(architecture: str, tmp_path: Path) -> None:
    path = make_tiny(tmp_path, architecture, spread=4.0)
    for held in DTYPES:
        model: Any = load_model(ModelConfig(model=path, dtype=held), "cpu")
        model.save_pretrained(tmp_path / held)
        before, bits = tensors(model), [tensor.clone() for tensor in tensors(model).values()]
        for dtype in DTYPES:
            loaded = AutoModelForCausalLM.from_pretrained(
                tmp_path / held, dtype=dtype, attn_implementation=model.config._attn_implementation
            )
            with computing_in(model, dtype):
                assert model.dtype == getattr(torch, dtype)
                assert torch.equal(logits(model), logits(loaded.eval())), (held, dtype)
            assert_left_alone(model, before, bits)


@pytest.mark.slow
def test_buffers_that_a_model_makes_itself_are_those_of_the_precision(tmp_path: Path) -> None:
    # Falcon-H1 makes a vector of multipliers in the type that it is loaded in.
    config = AutoConfig.for_model(
        "falcon_h1",
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        mamba_d_ssm=16,
        mamba_n_heads=2,
        mamba_d_head=8,
        ssm_multipliers=[0.7, 0.3, 0.9, 1.1, 0.6],
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for held in DTYPES:
        model: Any = load_model(ModelConfig(model=str(tmp_path), dtype=held), "cpu")
        model.save_pretrained(tmp_path / held)
        before, bits = tensors(model), [tensor.clone() for tensor in tensors(model).values()]
        for dtype in DTYPES:
            loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / held, dtype=dtype)
            with computing_in(model, dtype):
                assert torch.equal(logits(model), logits(loaded.eval())), (held, dtype)
            assert_left_alone(model, before, bits)


@pytest.mark.parametrize(
    "quantization",
    [
        pytest.param(None, marks=pytest.mark.slow),
        pytest.param("int8", marks=pytest.mark.slow),
        "int4",
    ],
)
def test_an_adapter_and_quantized_weights_stay_as_they_are(
    quantization: Any, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    path = make_tiny(tmp_path, width=64, spread=4.0)
    base = load_model(ModelConfig(model=path, quantization=quantization), "cpu")
    model = add_adapter(base, LoraConfig(r=4), {}, seed=1)
    own = {name for name, tensor in model.named_parameters() if "lora" in name}
    packed = {n for n, t in model.named_parameters() if type(t) is not torch.nn.Parameter}
    assert bool(packed) is (quantization is not None)
    before, bits = tensors(model), [tensor.clone() for tensor in tensors(model).values()]
    for dtype in DTYPES:
        with computing_in(model, dtype):
            inside = tensors(model)
            assert all(inside[name] is before[name] for name in own | packed)
            floats = {n for n, t in inside.items() if t.is_floating_point()} - own - packed
            outside = {name for name in floats if "inv_freq" not in name}
            assert {inside[name].dtype for name in outside} == {getattr(torch, dtype)}
            found = logits(model)
            assert found.dtype == getattr(torch, dtype)
            assert found.isfinite().all()
        # Bitsandbytes rounds the biases of its layers in place to the type of what it is given.
        assert_left_alone(model, before, bits)
        assert all(m.compute_dtype == torch.float32 for m in model.modules() if _is_int4(m))


def _is_int4(module: Any) -> bool:
    return hasattr(module, "compute_dtype") and type(module).__name__ == "Linear4bit"


def test_everything_is_restored_after_an_error_and_products_are_exact(tmp_path: Path) -> None:
    model: Any = load_model(ModelConfig(model=make_tiny(tmp_path)), "cpu")
    before, bits = tensors(model), [tensor.clone() for tensor in tensors(model).values()]
    backends: Any = torch.backends
    backends.fp32_precision = "tf32"
    try:
        with (
            torch.autocast("cpu", torch.bfloat16),
            pytest.raises(RuntimeError, match="wrong"),
            computing_in(model, "float32"),
        ):
            assert backends.fp32_precision == "ieee"
            assert logits(model).dtype == torch.float32
            raise RuntimeError("wrong")
        assert backends.fp32_precision == "tf32"
    finally:
        backends.fp32_precision = "none"
    assert_left_alone(model, before, bits)


def test_what_a_study_did_not_declare_changes_nothing(tmp_path: Path) -> None:
    model: Any = load_model(ModelConfig(model=make_tiny(tmp_path)), "cpu")
    with torch.autocast("cpu", torch.bfloat16), computing_in(model, None):
        assert logits(model).dtype == torch.bfloat16
