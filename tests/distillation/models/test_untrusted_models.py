"""Models and data that would run code: none of it runs unless the study file says that it may."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from sweeper.config.data import DataConfig
from sweeper.config.models import ModelConfig
from sweeper.distillation.data.examples import read_examples
from sweeper.distillation.models.loading import identity, load_model, load_tokenizer
from sweeper.foundation.errors import BadInputError


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Exists as soon as foreign code has run."""
    return tmp_path / "it-ran"


@pytest.fixture
def copied(tiny_student: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_student, tmp_path / "model"))


def test_the_bomb_of_these_tests_goes_off(mark: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "pytorch_model.pt"])
def test_pickled_weights_are_refused(copied: Path, mark: Path, name: str) -> None:
    weights: dict[str, Any] = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save({**weights, "bomb": Bomb(mark)}, copied / name)
    with pytest.raises(BadInputError, match="safetensors files, because others may run code"):
        load_model(ModelConfig(model=str(copied)), "cpu")
    assert not mark.exists()


def test_weights_that_are_pickled_under_the_name_of_safetensors(copied: Path, mark: Path) -> None:
    torch.save({"bomb": Bomb(mark)}, copied / "model.safetensors")
    with pytest.raises(BadInputError, match="Cannot load the weights"):
        load_model(ModelConfig(model=str(copied)), "cpu")
    assert not mark.exists()


def test_an_index_that_names_pickled_shards(copied: Path, mark: Path) -> None:
    names = list(load_file(copied / "model.safetensors"))
    (copied / "model.safetensors").unlink()
    torch.save({"bomb": Bomb(mark)}, copied / "shard.bin")
    index = {"metadata": {}, "weight_map": {name: "shard.bin" for name in names}}
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        (copied / name).write_text(json.dumps(index))
    with pytest.raises(BadInputError, match="Cannot load the weights"):
        load_model(ModelConfig(model=str(copied)), "cpu")
    assert not mark.exists()


def test_an_adapter_with_pickled_weights(tiny_student: str, tmp_path: Path, mark: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(Path(tiny_student) / "config.json", adapter)
    config = {"peft_type": "LORA", "base_model_name_or_path": tiny_student, "r": 2}
    config |= {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    torch.save({"bomb": Bomb(mark)}, adapter / "adapter_model.bin")
    with pytest.raises(BadInputError, match="Cannot load the weights"):
        load_model(ModelConfig(model=str(adapter)), "cpu")
    assert not mark.exists()


CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class MyConfig(LlamaConfig):
    model_type = "my-own"
class MyModel(LlamaForCausalLM):
    config_class = MyConfig
class MyTokenizer(PreTrainedTokenizerFast):
    pass
"""


def with_code(model: Path, mark: Path) -> str:
    """A model whose classes are its own."""
    config = json.loads((model / "config.json").read_text())
    config["model_type"] = "my-own"
    config["architectures"] = ["MyModel"]
    config["auto_map"] = {"AutoConfig": "code.MyConfig", "AutoModelForCausalLM": "code.MyModel"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "code.py").write_text(CODE.format(mark=str(mark)))
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(CODE.format(mark=str(mark)))
    return str(model)


@pytest.mark.parametrize("random_init", [False, True])
def test_a_models_code_does_not_run(copied: Path, mark: Path, random_init: bool) -> None:
    model = with_code(copied, mark)
    config = ModelConfig(model=model, random_init=random_init)
    with pytest.raises(BadInputError, match="needs trust_remote_code: true next to model"):
        load_model(config, "cpu")
    assert not mark.exists()


def test_a_way_to_generate_does_not_run(copied: Path, mark: Path) -> None:
    (copied / "custom_generate").mkdir()
    (copied / "custom_generate" / "generate.py").write_text(CODE.format(mark=str(mark)))
    load_model(ModelConfig(model=str(copied)), "cpu")
    assert not mark.exists()


def test_a_tokenizers_code_does_not_run(copied: Path, mark: Path) -> None:
    path = copied / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["tokenizer_class"] = "MyTokenizer"
    settings["auto_map"] = {"AutoTokenizer": [None, "code.MyTokenizer"]}
    path.write_text(json.dumps(settings))
    (copied / "code.py").write_text(CODE.format(mark=str(mark)))
    try:
        load_tokenizer(ModelConfig(model=str(copied)))
    except BadInputError as error:
        assert "trust_remote_code" in str(error)
    assert not mark.exists()


def test_a_chat_template_is_no_program(copied: Path, mark: Path) -> None:
    (copied / "chat_template.jinja").write_text(
        "{{ cycler.__init__.__globals__.os.system('touch " + str(mark) + "') }}"
    )
    tokenizer = load_tokenizer(ModelConfig(model=str(copied)))
    with pytest.raises(Exception, match="unsafe"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("trust_remote_code", True, "expected the key trust_remote_code next to model"),
        ("revision", "main", "expected the key revision next to model"),
        ("use_safetensors", False, "weights are read from safetensors files only"),
        ("weights_only", False, "weights are read from safetensors files only"),
        ("attn_implementation", "some/kernel", "needs trust_remote_code: true"),
        ("allow_all_kernels", True, "needs trust_remote_code: true"),
        ("config", "elsewhere", "the model's own files"),
        ("state_dict", {}, "the model's own files"),
    ],
)
def test_arguments_that_would_open_a_back_door(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig(model="m", init_kwargs={name: value})


def test_a_trusted_model_may_name_a_kernel() -> None:
    kernel = {"attn_implementation": "some/kernel"}
    model = ModelConfig(model="m", trust_remote_code=True, init_kwargs=kernel)
    assert model.init_kwargs == kernel
    assert ModelConfig.model_validate_json(model.model_dump_json()) == model


def test_a_token_is_no_part_of_a_models_identity(tiny_student: str) -> None:
    one, other = (
        ModelConfig(model=tiny_student, init_kwargs={"token": token, "attn_implementation": "sdpa"})
        for token in ("hf_first", "hf_second")
    )
    assert identity(one) == identity(other)
    assert "hf_first" not in json.dumps(identity(one))


def data(path: str) -> DataConfig:
    return DataConfig.model_validate({"train": {"path": path}})


def test_a_datasets_script_does_not_run(tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.py").write_text(CODE.format(mark=str(mark)))
    with pytest.raises(BadInputError, match="cannot read the data"):
        read_examples(data(str(folder)), ())
    (folder / "rows.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    with contextlib.suppress(BadInputError):
        read_examples(data(str(folder)), ())
    assert not mark.exists()


@pytest.mark.parametrize("reader", ["pandas", "json"])
def test_a_kind_of_file_is_no_dataset(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(Bomb(mark)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="expected the name of a dataset"):
        read_examples(data(reader), ())
    assert not mark.exists()


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet"])
def test_pickled_rows_under_another_name(tmp_path: Path, mark: Path, suffix: str) -> None:
    rows = tmp_path / f"rows.{suffix}"
    rows.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(BadInputError, match=rows.name):
        read_examples(data(str(rows)), (str(rows),))
    assert not mark.exists()
