from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sweeper.config.models import LoraConfig, ModelConfig
from sweeper.distillation.data.compatibility import check_pair
from sweeper.distillation.models.adapters import add_adapter
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.loadable import default_attention
from sweeper.distillation.models.loading import (
    identity,
    load_model,
    load_tokenizer,
    location,
    without_weights,
)
from sweeper.distillation.models.rounding import store_for_autocast
from sweeper.foundation.errors import BadInputError
from tests.support.tiny_models import ARCHITECTURES, make_tiny
from tests.support.tiny_studies import make_model

STUDENT = ModelConfig(model="builtin/adder-student")
TEACHER = ModelConfig(model="builtin/adder-teacher")


def parameters(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("attention", [None, "eager", "sdpa", "flex_attention"])
def test_an_attention_is_refused_where_the_library_would_refuse_it(
    architecture: str, attention: str | None, tmp_path: Path
) -> None:
    path = make_tiny(tmp_path, architecture)
    model = ModelConfig(model=path, init_kwargs={"attn_implementation": attention})
    try:
        without_weights(model)
    except ValueError as error:
        assert "does not support" in str(error)
        told = rf"has no {attention} .* its default, (eager|sdpa)$"
        with pytest.raises(BadInputError, match=told):
            default_attention(model)
    else:
        wanted = without_weights(ModelConfig(model=path)).config._attn_implementation
        assert default_attention(model) == wanted


def test_a_shape_without_weights_is_initialised_from_the_seed(tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((Path(location(STUDENT.model)) / name).read_bytes())
    shape = ModelConfig(model=str(tmp_path), random_init=True)
    state = torch.get_rng_state()
    first, again = (parameters(load_model(shape, "cpu", seed=1)) for _ in range(2))
    other = parameters(load_model(shape, "cpu", seed=2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_cpu_loads_float32_unless_told_otherwise() -> None:
    assert load_model(TEACHER, "cpu").dtype == torch.float32
    half = load_model(TEACHER.model_copy(update={"dtype": "bfloat16"}), "cpu")
    assert half.dtype == torch.bfloat16


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match=r"Cannot load the tokenizer of .*empty"):
        load_tokenizer(ModelConfig(model=str(tmp_path / "empty")))


def test_pickles_are_not_read(tmp_path: Path, tiny_student: str) -> None:
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((Path(tiny_student) / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    with pytest.raises(BadInputError, match=r"no file named model\.safetensors"):
        load_model(ModelConfig(model=str(tmp_path)), "cpu")


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config

    T5Config(vocab_size=8, d_model=8, num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match="an encoder-decoder"):
        load_model(ModelConfig(model=str(tmp_path)), "cpu")


def test_weights_stored_for_autocast_give_the_same_outputs() -> None:
    model = load_model(ModelConfig(model="builtin/adder-teacher"), "cpu")
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    tokens = torch.arange(8)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = model(tokens).logits
        store_for_autocast(model, torch.bfloat16)
        after = model(tokens).logits
    assert torch.equal(before, after)
    layers = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
    assert {layer.weight.dtype for layer in layers} == {torch.bfloat16}
    assert model.get_input_embeddings().weight.dtype == torch.float32
    if tied:
        assert model.get_output_embeddings().weight.dtype == torch.float32


def test_different_vocabularies_are_refused_with_an_example(tiny_student: str) -> None:
    ours = load_tokenizer(ModelConfig(model=tiny_student))
    check_pair(ours, ours, ("a", "b"))
    with pytest.raises(BadInputError, match=r"student b differ in \d+ of \d+ tokens"):
        check_pair(load_tokenizer(TEACHER), ours, ("a", "b"))


def test_the_templates_end_of_turn_ends_an_answer(tiny_student: str) -> None:
    config = ModelConfig(model=tiny_student)
    tokenizer = load_tokenizer(config)
    ids = end_token_ids(load_model(config, "cpu"), tokenizer)
    assert ids == sorted(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))


def test_identity_follows_the_files(tmp_path: Path) -> None:
    one = make_model(tmp_path / "one", layers=1, width=8, seed=1)
    same = make_model(tmp_path / "same", layers=1, width=8, seed=1)
    other = make_model(tmp_path / "other", layers=1, width=8, seed=2)
    first, second, third = (identity(ModelConfig(model=path)) for path in (one, same, other))
    assert first == second != third
    assert identity(ModelConfig(model=one, random_init=True)) != first


def test_an_adapter_starts_as_nothing_and_from_its_seed(tiny_student: str) -> None:
    config = ModelConfig(model=tiny_student)
    tokens = torch.tensor([[5, 6, 7]])
    base = load_model(config, "cpu")
    before = base(tokens).logits
    first = add_adapter(base, LoraConfig(r=4), {"r": 2}, seed=1).eval()
    assert torch.allclose(first(tokens).logits, before)
    trainable = {n: p for n, p in first.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora" in name for name in trainable)
    assert {min(p.shape) for p in trainable.values()} == {2}
    again = add_adapter(load_model(config, "cpu"), LoraConfig(r=2), {}, seed=1)
    other = add_adapter(load_model(config, "cpu"), LoraConfig(r=2), {}, seed=2)
    assert torch.equal(parameters(first), parameters(again))
    assert not torch.equal(parameters(first), parameters(other))
