"""Oumi's training configurations for GKD: what a study takes of them, and gives back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.oumi.keys import DATASET_NOT_TAKEN, NOT_TAKEN, READ, TAKEN
from sweeper.config.oumi.reading import Recipe, read_recipe
from sweeper.config.oumi.writing import write_recipe
from sweeper.config.settings import MethodSettings
from sweeper.config.study import StudyConfig
from sweeper.config.yaml_text import yaml_text
from sweeper.foundation.errors import ConfigError
from tests.support.oumi_recipes import BASIC, CONSERVATIVE, QUANTISED, WHOLE

ReadText = Callable[[str], Recipe]


@pytest.fixture
def read_text(tmp_path: Path) -> ReadText:
    def read(text: str) -> Recipe:
        path = tmp_path / "gkd.yaml"
        path.write_text(text, encoding="utf-8")
        return read_recipe(path)

    return read


def problems(read: ReadText, text: str) -> list[str]:
    """What is wrong, each with line, column and key."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem).partition("gkd.yaml:")[2] for problem in caught.value.problems]


def notes(recipe: Recipe) -> dict[str, str]:
    assert all(note.line is not None for note in recipe.notes)
    return {note.path: note.message for note in recipe.notes}


def test_the_basic_example(read_text: ReadText) -> None:
    recipe = read_text(BASIC)
    assert recipe.values == {
        "student": {
            "model": "Qwen/Qwen2.5-0.5B-Instruct",
            "dtype": "bfloat16",
            "lora": {"r": 16, "alpha": 32},
        },
        "teacher": {"model": "Qwen/Qwen2.5-1.5B-Instruct", "dtype": "bfloat16"},
        "training": {"learning_rate": 5e-5},
    }
    assert recipe.settings == {
        "temperature": 0.9, "lmbda": 0.5, "beta": 0.5, "max_new_tokens": 256
    }  # fmt: skip
    assert recipe.notes == []


def test_the_example_with_a_quantised_teacher(read_text: ReadText) -> None:
    recipe = read_text(QUANTISED)
    assert recipe.values["teacher"] == {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "quantization": "int8",
        "init_kwargs": {"device_map": "auto"},
    }
    assert "student" not in recipe.values
    assert recipe.notes == []


def test_the_conservative_example(read_text: ReadText) -> None:
    recipe = read_text(CONSERVATIVE)
    assert recipe.values["teacher"] == {"model": "teacher-model"}
    assert recipe.settings == {"temperature": 0.3, "lmbda": 0.3, "beta": 0.0}


def test_what_is_not_said_is_as_oumi_takes_it(read_text: ReadText) -> None:
    recipe = read_text("training: {use_peft: true, gkd: {lmbda: 0.5}}\npeft: {lora_dropout: 0.1}\n")
    assert recipe.values["student"]["lora"] == {"dropout": 0.1, "r": 8, "alpha": 8}
    assert recipe.values["training"] == {"learning_rate": 5e-5}


def test_every_kind_of_key_is_taken_over_or_reported(read_text: ReadText) -> None:
    recipe = read_text(WHOLE)
    assert recipe.values["student"] == {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "revision": "main",
        "dtype": "float32",
        "init_kwargs": {"attn_implementation": "sdpa", "use_cache": False},
        "trust_remote_code": True,
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
    }
    assert recipe.values["data"]["train"] == {
        "path": "rows.jsonl",
        "columns": {"prompt": "question", "completion": "answer"},
        "name": "main",
        "split": "test",
        "limit": 100,
    }
    assert recipe.values["training"] == {
        "max_length": 1024, "max_steps": 50, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4, "learning_rate": 1e-4, "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 0.5}, "extra": {"neftune_noise_alpha": 5},
        "warmup_ratio": 0.1, "optim": "adamw_torch_fused", "weight_decay": 0.01,
        "max_grad_norm": 0.5, "adam_beta2": 0.95, "gradient_checkpointing": True, "bf16": True,
        "logging_steps": 1, "checkpoint_every": 10,
    }  # fmt: skip
    assert recipe.values["seed"] == 7
    assert set(notes(recipe)) == {
        "model.tokenizer_name", "data.train.collator_name", "data.validation", "fsdp",
        "data.train.datasets.0.shuffle", "training.output_dir", "training.enable_wandb",
        "data.train.datasets.0.dataset_kwargs.return_conversations", "peft.lora_init_weights",
        "training.gradient_checkpointing_kwargs",
    }  # fmt: skip


def test_what_is_not_taken_over_is_told_with_its_place_and_why(read_text: ReadText) -> None:
    text = CONSERVATIVE + "  output_dir: out\n  max_stepz: 4\nmodle: {model_name: x}\n"
    found = [str(note).partition("gkd.yaml:")[2] for note in read_text(text).notes]
    assert found == [
        "7:3: training.output_dir: not taken over: a study keeps its files below runs/",
        "8:3: training.max_stepz: not taken over: unknown key; did you mean 'max_steps'?",
        "9:1: modle: not taken over: unknown key; did you mean 'model'?",
    ]


def test_an_adapter_that_is_not_used_is_told(read_text: ReadText) -> None:
    recipe = read_text(BASIC.replace("use_peft: True", "use_peft: False"))
    assert "lora" not in recipe.values["student"]
    assert set(notes(recipe).values()) == {"has no effect, because training.use_peft is not true"}


def test_a_data_set_is_found_where_oumi_finds_it(read_text: ReadText) -> None:
    def data(entry: str) -> Any:
        text = CONSERVATIVE + f"data: {{train: {{datasets: [{entry}]}}}}\n"
        return read_text(text).values["data"]["train"]

    assert data("{dataset_name: yahma/alpaca-cleaned}") == {"path": "yahma/alpaca-cleaned"}
    assert data("{dataset_name: text_sft, dataset_path: a.jsonl}") == {"path": "a.jsonl"}
    named = "{dataset_name: HuggingFaceDataset, dataset_kwargs: {hf_dataset_path: a/b}}"
    assert data(named) == {"path": "a/b", "columns": {"messages": "messages"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {trainer_type: TRL_DPO}\n",
         "1:12: training.trainer_type: expected TRL_GKD, found 'TRL_DPO': only GKD is turned into"
         " a study"),
        ("model: {model_name: x}\n",
         "1:1: training.gkd: expected the settings of GKD, found none: is this a training"
         " configuration of Oumi's?"),
        ("training: {gkd: {beta: 1}, trainer_kwargs: [1]}\n",
         "1:28: training.trainer_kwargs: expected a mapping, found [1]"),
        ("training: {gkd: {beta: 1}}\nmodel: 3\n", "2:1: model: expected a mapping, found 3"),
        ("training: {gkd: {beta: 1}}\ndata: {train: {datasets: [{}, {}]}}\n",
         "2:16: data.train.datasets: expected one data set, found 2: put their rows into one file"),
        ("training: {gkd: {beta: 1}, num_train_epochs: many}\n",
         "1:28: training.num_train_epochs: expected a number of at least 0, found 'many'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(read_text: ReadText, text: str, message: str) -> None:
    assert message in problems(read_text, text)


def test_no_key_is_in_two_tables_and_every_setting_exists() -> None:
    assert not {*TAKEN} & {*READ} and not {*TAKEN, *READ} & {*NOT_TAKEN}
    assert not set(DATASET_NOT_TAKEN) & {"dataset_name", "dataset_path"}
    settings = [to[1] for to in TAKEN.values() if to[0] in ("training", "settings")]
    assert set(settings) <= set(MethodSettings.model_fields)


def as_study(recipe: Recipe, **changes: Any) -> StudyConfig:
    """The smallest study with the recipe as its arm ``gkd-recipe``."""
    values: dict[str, Any] = {
        "study": "s",
        "student": {"model": "a/student"},
        "data": {"train": {"path": "a/b"}},
        **recipe.values,
        "arms": {"gkd-recipe": {"method": "gkd", "settings": recipe.settings}},
        "evaluation": {"selection": "s.yaml"},
        **changes,
    }
    values["student"] = {"model": "a/student", **values["student"]}
    return StudyConfig.model_validate(values)


def written(config: StudyConfig, arm: str = "gkd-recipe") -> str:
    return yaml_text(write_recipe(config, arm, {})[0], flow=9)


@pytest.mark.parametrize("text", [BASIC, CONSERVATIVE, WHOLE, QUANTISED])
def test_what_is_written_back_is_read_as_the_same_recipe(read_text: ReadText, text: str) -> None:
    first = read_text(text)
    once = written(as_study(first))
    second = read_text(once)
    assert second.settings.items() >= first.settings.items()
    for section, values in first.values.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            again = second.values[section][key]
            if isinstance(value, dict):
                assert again.items() >= value.items(), (section, key)
            else:
                assert again == value, (section, key)
    assert written(as_study(second)) == once


def test_an_arm_is_written_as_the_trial_trained_it(read_text: ReadText) -> None:
    config = as_study(
        read_text(BASIC),
        arms={"gkd": {"search": {"lmbda": {"type": "float", "low": 0.0, "high": 1.0}}}},
        training={"max_steps": 20, "bf16": True},
        data={"train": {"path": "a/b", "columns": {"messages": "messages"}}},
    )
    params = {
        "lmbda": 0.75,
        "lora.r": 2,
        "teacher.model": "a/other",
        "extra.neftune_noise_alpha": 1,
    }
    values, unsaid = write_recipe(config, "gkd", params)
    assert values["training"]["gkd"]["lmbda"] == 0.75
    assert values["training"]["gkd"]["teacher_model_name_or_path"] == "a/other"
    assert values["training"]["trainer_kwargs"] == {"neftune_noise_alpha": 1}
    assert values["training"]["mixed_precision_dtype"] == "BF16"
    assert values["peft"] == {"lora_r": 2, "lora_alpha": 32, "lora_dropout": 0.0}
    [dataset] = values["data"]["train"]["datasets"]
    assert dataset["dataset_name"] == "HuggingFaceDataset"
    assert dataset["dataset_kwargs"]["return_conversations_format"] == "dict"
    assert len(unsaid) == 1 and "divides the on-policy loss" in unsaid[0]


def test_offline_arms_are_written_where_the_format_has_a_trainer(read_text: ReadText) -> None:
    arms = {"sft": None, "seqkd": None, "supervised_kd": None}
    config = as_study(read_text(BASIC), arms=arms)
    sft, _ = write_recipe(config, "sft", {})
    assert sft["training"]["trainer_type"] == "TRL_SFT" and "gkd" not in sft["training"]
    supervised, _ = write_recipe(config, "supervised_kd", {})
    assert supervised["training"]["trainer_type"] == "TRL_GKD"
    assert supervised["training"]["gkd"]["lmbda"] == supervised["training"]["gkd"]["beta"] == 0
    with pytest.raises(ConfigError, match=r"--recipe: the arm seqkd trains on answers"):
        write_recipe(config, "seqkd", {})
