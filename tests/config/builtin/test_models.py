"""The shipped models: they load offline, fit their size, and the teacher can add."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from scripts import train_adder
from sweeper.config import builtin
from sweeper.config.builtin import addition


def test_an_unknown_model_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"adder-teacher, adder-student, .*, but got 'adder'"):
        builtin.model_directory("adder")


def test_the_folders_are_small_and_hold_safetensors() -> None:
    for name in builtin.MODELS:
        directory = builtin.model_directory(name)
        assert sum(file.stat().st_size for file in directory.iterdir()) <= 2_000_000
        assert (directory / "model.safetensors").exists()


def test_the_student_is_two_to_four_times_smaller() -> None:
    teacher, student = (
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(builtin.model_directory(name)))
        for name in ("adder-teacher", "adder-student")
    )
    assert teacher.config.vocab_size == student.config.vocab_size
    assert 2 <= teacher.num_parameters() / student.num_parameters() <= 4


@pytest.mark.parametrize("name", builtin.MODELS)
def test_the_tokenizer_round_trips_and_adds_nothing(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(builtin.model_directory(name))
    row = addition.problems("test", 1)[0]
    text = row["question"] + row["answer"]
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert tokenizer("x\n")["input_ids"] == [tokenizer.unk_token_id] * 2


@pytest.mark.parametrize("name", builtin.MODELS)
def test_the_chat_template_is_the_identity(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(builtin.model_directory(name))
    user = {"role": "user", "content": "1234+5678?"}
    assistant = {"role": "assistant", "content": "4+8+0=12"}
    prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert prompt == "1234+5678?"
    chat = tokenizer.apply_chat_template([user, assistant], tokenize=False)
    assert chat == "1234+5678?4+8+0=12<eos>"


@pytest.mark.parametrize("name", builtin.MODELS)
def test_every_file_agrees_on_the_special_tokens(name: str) -> None:
    directory = builtin.model_directory(name)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for file in ("config.json", "generation_config.json"):
        settings = json.loads((directory / file).read_text(encoding="utf-8"))
        assert settings["eos_token_id"] == tokenizer.eos_token_id
        assert settings["pad_token_id"] == tokenizer.pad_token_id


def test_the_teacher_adds() -> None:
    directory = builtin.model_directory("adder-teacher")
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert train_adder.accuracy(model, tokenizer, addition.problems("test", 60)) >= 0.9


def test_the_student_adds_sometimes() -> None:
    directory = builtin.model_directory("adder-student")
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert 0.2 <= train_adder.accuracy(model, tokenizer, addition.problems("test", 200)) <= 0.7


def test_the_weak_teacher_adds_less_often_than_the_student() -> None:
    directory = builtin.model_directory("adder-weak-teacher")
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert train_adder.accuracy(model, tokenizer, addition.problems("test", 60)) <= 0.2


def test_training_is_seeded() -> None:
    first, _ = train_adder.train_teacher(steps=2, batch_size=4, learning_rate=1e-3, seed=3)
    second, _ = train_adder.train_teacher(steps=2, batch_size=4, learning_rate=1e-3, seed=3)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_naming_what_ships_imports_nothing_heavy() -> None:
    code = (
        "import sys; from sweeper.config import builtin; builtin.dataset('addition', 'train');"
        "builtin.model_directory('adder-teacher');"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
