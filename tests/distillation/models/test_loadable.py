"""What ``check`` says of a model's folder, and what loading it then does: they must agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sweeper.config.models import ModelConfig, StudentConfig
from sweeper.distillation.models.loadable import check_loadable, published_settings
from sweeper.distillation.models.loading import load_model
from sweeper.foundation.errors import BadInputError

Weights = dict[str, torch.Tensor]
UP = "model.layers.0.mlp.up_proj.weight"
PARTS = "model-00001-of-00002.safetensors"


def _rewritten(change: Callable[[Weights], object]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return write


def _wrap(weights: Weights) -> None:
    for name in list(weights):
        weights["_orig_mod." + name] = weights.pop(name)


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-500])


def _pickled(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def _lost_shard(folder: Path) -> None:
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, PARTS)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _configured(**values: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**config, **values}), encoding="utf-8")

    return write


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a weight is missing": (_rewritten(lambda w: w.pop(UP)), f"found none for 1 of them.*{UP}"),
    "names have a prefix": (_rewritten(_wrap), "but others, for example _orig_mod"),
    "a weight has another size": (
        _rewritten(lambda w: w.update({UP: torch.zeros(3, 3)})),
        "3×3 for|other sizes",
    ),
    "there are no weights": (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
    "the file is cut": (_cut, "Cannot load the weights"),
    "the file is empty": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        "Cannot load the weights",
    ),
    "weights are pickled": (_pickled, "must be safetensors files"),
    "a shard is lost": (_lost_shard, f"{PARTS}|Cannot load the weights"),
    "there are more layers in the configuration": (
        _configured(num_hidden_layers=3),
        "found none for",
    ),
    "the width is another": (_configured(intermediate_size=40), "×|other sizes"),
    "the architecture is unknown": (_configured(model_type="nonesuch"), "configuration"),
    "the configuration is no JSON": (
        lambda folder: (folder / "config.json").write_text("{", encoding="utf-8"),
        "configuration",
    ),
}


@pytest.fixture
def folder(tiny_student: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_student, tmp_path / "model"))


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_cannot_be_loaded_is_refused_by_check_and_by_loading(
    folder: Path, case: str
) -> None:
    write, message = BROKEN[case]
    write(folder)
    model = ModelConfig(model=str(folder))
    for read in (check_loadable, lambda each: load_model(each, "cpu")):
        with pytest.raises(BadInputError, match=message):
            read(model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"revision": "main"}, "is a folder"),
        ({"init_kwargs": {"device_map": "cuda:77"}}, "devices of this machine.*'cuda:77'"),
        ({"init_kwargs": {"device_map": {"": 99}}}, "devices of this machine.*99"),
        ({"init_kwargs": {"device_map": "everywhere"}}, "devices of this machine"),
        ({"init_kwargs": {"nonsense": 1}}, "unexpected keyword argument 'nonsense'"),
        ({"init_kwargs": {"variant": "fp16"}}, "model.fp16.safetensors"),
        ({"init_kwargs": {"subfolder": "x"}}, "Cannot load the weights"),
        ({"keep_layers": 77}, "number of layers, found 77"),
        ({"keep_layers": (0, 77)}, "the model's last, found 77"),
    ],
)
def test_what_a_study_asks_of_a_model_that_it_does_not_have_is_refused(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        check_loadable(StudentConfig(model=str(folder), **values))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"dtype": "bfloat16"},
        {"keep_layers": 2},
        {"random_init": True},
        {"init_kwargs": {"device_map": "cpu"}},
        {"init_kwargs": {"device_map": "auto"}},
        {"init_kwargs": {"attn_implementation": "eager"}},
    ],
)
def test_a_model_that_can_be_loaded_passes(tiny_teacher: str, values: dict[str, Any]) -> None:
    assert check_loadable(StudentConfig(model=tiny_teacher, **values)) is None


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_what_passes_can_be_loaded(tiny_teacher: str, quantization: str | None) -> None:
    if quantization:
        pytest.importorskip("bitsandbytes")
    options = {"device_map": "auto", "dtype": "float32"}
    model = ModelConfig.model_validate(
        {"model": tiny_teacher, "quantization": quantization, "init_kwargs": options}
    )
    assert check_loadable(model) is None
    assert load_model(model, "cpu").device.type == "cpu"


def test_random_weights_need_no_files(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert check_loadable(StudentConfig(model=str(folder), random_init=True)) is None


def test_weights_that_a_model_has_no_place_for_are_named(folder: Path) -> None:
    _rewritten(lambda w: w.update({"value_head.weight": torch.zeros(2)}))(folder)
    note = check_loadable(ModelConfig(model=str(folder)))
    assert note is not None
    assert "no place for 1 of the weights" in note
    assert "value_head.weight" in note


@pytest.mark.parametrize(
    ("published", "told"),
    [
        ({}, None),
        ({"do_sample": False, "eos_token_id": [0, 1], "pad_token_id": 0, "max_length": 9}, None),
        (
            {"repetition_penalty": 1.1, "no_repeat_ngram_size": 4},
            "no_repeat_ngram_size 4, repetition_penalty 1.1",
        ),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.8},
            "do_sample True, temperature 0.6, top_p 0.8",
        ),
        ({"suppress_tokens": [3]}, "suppress_tokens [3]"),
    ],
)
def test_a_publishers_generation_settings_are_named(
    folder: Path, published: dict[str, Any], told: str | None
) -> None:
    (folder / "generation_config.json").write_text(json.dumps(published), encoding="utf-8")
    assert published_settings(ModelConfig(model=str(folder))) == told


def test_without_generation_settings_none_are_named(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert published_settings(ModelConfig(model=str(folder))) is None
