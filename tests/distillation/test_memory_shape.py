"""Shapes of models, found without their weights, against models that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.distillation.memory_shape import shape_of, shapes_of
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.models.loading import load_model
from sweeper.records import ShapeRequest
from tests.support.tiny_models import make_tiny
from tests.support.training_jobs import make_study_inputs


def kept_for_backward(model: Any, length: int) -> int:
    """The bytes that a real forward pass leaves for the backward pass, weights aside."""
    known = {weights.untyped_storage()._cdata for weights in model.parameters()}
    known |= {buffer.untyped_storage()._cdata for buffer in model.buffers()}
    found: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in known:
            found[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        tokens = torch.arange(length)[None] % 32
        states = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
    found[states.untyped_storage()._cdata] = states
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_a_shape_is_that_of_the_loaded_model(architecture: str, tmp_path: Path) -> None:
    path = make_tiny(tmp_path, architecture, layers=3)
    student = StudentConfig(model=path, keep_layers=2)
    shape, model = shape_of(student, "cpu"), load_model(student, "cpu")
    count = sum(weights.numel() for weights in model.parameters())
    assert (shape.parameters, shape.trainable_parameters, shape.layers) == (count, count, 2)
    # The third layer, but for its norms and biases.
    left_out = shape_of(StudentConfig(model=path), "cpu").linear_parameters
    assert shape.cut_parameters == left_out - shape.linear_parameters > 0
    assert shape.training is not None
    kept = kept_for_backward(model, 256)
    assert shape.training.kept.bytes(1, 256) == pytest.approx(kept, rel=0.05)


def test_what_is_trained_of_an_adapted_student(tmp_path: Path) -> None:
    path = make_tiny(tmp_path)
    student = StudentConfig(model=path, lora=LoraConfig(r=4))
    adapted = add_adapter(load_model(student, "cpu"), LoraConfig(r=4), {}, seed=0)
    trained = sum(w.numel() for w in adapted.parameters() if w.requires_grad)
    shape = shape_of(student, "cpu")
    assert shape.adapted
    assert shape.trainable_parameters == trained == 4 * shape.adapter_parameters
    whole = shape_of(StudentConfig(model=path), "cpu")
    assert shape.parameters == whole.parameters + trained


def test_gradient_checkpointing_keeps_less_and_eager_attention_keeps_pairs(tmp_path: Path) -> None:
    path = make_tiny(tmp_path)
    fused = shape_of(StudentConfig(model=path), "cpu")
    eager = shape_of(StudentConfig(model=path, init_kwargs={"attn_implementation": "eager"}), "cpu")
    assert fused.training is not None
    assert fused.checkpointed is not None
    assert eager.training is not None
    assert fused.checkpointed.kept.token < fused.training.kept.token / 3
    assert fused.training.kept.pair == 0
    # Attention's weights: a float32 for each head of each layer.
    assert eager.training.kept.pair >= 2 * 2 * 4


def test_a_teacher_is_only_read_and_its_type_is_as_stored(tmp_path: Path) -> None:
    path = make_tiny(tmp_path, dtype="bfloat16", vocab_rows=400)
    teacher = shape_of(ModelConfig(model=path, vocab_size=300), "cuda")
    assert (teacher.dtype_bytes, teacher.vocabulary) == (2, 300)
    assert (teacher.trainable_parameters, teacher.training) == (0, None)
    assert shape_of(ModelConfig(model=path), "cpu").dtype_bytes == 4
    # A student that is trained whole is in float32 whatever is stored.
    assert shape_of(StudentConfig(model=path), "cuda").dtype_bytes == 4


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"device_map": "auto"}, "the teacher's init_kwargs.device_map decides"),
        (None, "are stored quantized"),
    ],
)
def test_what_a_model_takes_is_not_known_where_its_file_decides(
    options: dict[str, Any] | None, why: str, tmp_path: Path
) -> None:
    path = Path(make_tiny(tmp_path))
    if options is None:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
        (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    teacher = shape_of(ModelConfig(model=str(path), init_kwargs=options or {}), "cpu")
    assert why in str(teacher.unforeseen)
    assert teacher.parameters > 0


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

class Body(LlamaModel):
    def forward(self, input_ids=None, **options):
        assert input_ids.sum().item() >= 0
        return super().forward(input_ids, **options)

class Odd(LlamaForCausalLM):
    config_class = LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = Body(config)
"""


def test_a_model_whose_code_needs_values_has_no_shape_and_the_others_have(tmp_path: Path) -> None:
    student = StudentConfig(model=make_tiny(tmp_path / "student"))
    odd = Path(make_tiny(tmp_path / "odd"))
    (odd / "code.py").write_text(CODE, encoding="utf-8")
    config = json.loads((odd / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "code.Odd"}
    config["model_type"] = "llama"
    (odd / "config.json").write_text(json.dumps(config), encoding="utf-8")
    teacher = ModelConfig(model=str(odd), trust_remote_code=True)
    inputs = make_study_inputs(tmp_path, teacher=teacher, student=student)
    wanted = [ShapeRequest(model=model, autocast=None) for model in (student, teacher)]
    known, unknown = shapes_of(inputs, wanted, "cpu")
    assert known == shape_of(student, "cpu")
    assert f"the code of {odd}" in str(unknown.unforeseen)
