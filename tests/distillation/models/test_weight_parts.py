"""Parts of stored weights: they are those of the whole model, and nothing else is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import ModelConfig
from sweeper.distillation.models import weight_parts
from sweeper.distillation.models.head_loading import load_head
from sweeper.distillation.models.loading import load_model
from tests.distillation.models import test_layer_dropping as dropping
from tests.support.tiny_models import ARCHITECTURES, make_tiny


class Reads(dict[str, Any]):
    """Weights that record which of them are read."""

    def __init__(self, stored: weight_parts.Stored) -> None:
        self.names: set[str] = set()
        super().__init__({name: Slice(self, name, weights) for name, weights in stored.items()})


class Slice:
    def __init__(self, reads: Reads, name: str, weights: Any) -> None:
        self._reads, self._name, self._weights = reads, name, weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._weights, name)

    def __getitem__(self, index: Any) -> Any:
        self._reads.names.add(self._name)
        return self._weights[index]


@pytest.mark.parametrize("architecture", dropping.ARCHITECTURES)
def test_only_the_layers_that_are_kept_are_read(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_layers, read = weight_parts.of_layers, list[Reads]()

    def watched(stored: weight_parts.Stored, *args: Any) -> weight_parts.Stored:
        read.append(Reads(stored))
        return of_layers(read[0], *args)

    monkeypatch.setattr(weight_parts, "of_layers", watched)
    path = dropping.write(architecture, tmp_path)
    small = dropping.student(path, (0, 2, 5))
    assert small.config.num_hidden_layers == 3
    layers = {
        next(part for part in name.split(".") if part.isdigit())
        for name in read[0].names
        if any(part.isdigit() for part in name.split("."))
    }
    assert layers == {"0", "2", "5"}
    # What is around layers is read as well.
    assert any("norm" in name or "ln_f" in name for name in read[0].names if "layers" not in name)
    assert (
        small.generation_config.eos_token_id
        == load_model(ModelConfig(model=path), "cpu").generation_config.eos_token_id
    )
    assert small.config.name_or_path == path


@pytest.mark.parametrize(
    ("names", "total"),
    [
        (["blocks.0.w", "blocks.1.w"], 2),
        (["model.layers.0.w"], 2),
        (["text.layers.0.w", "text.layers.1.w", "vision.layers.0.w"], 2),
        (["model.layers.0.w", "model.layers.1.w", "model.layers.2.w"], 2),
    ],
    ids=["another name", "one is missing", "two lists", "too many"],
)
def test_layers_under_other_names_are_left_to_the_library(names: list[str], total: int) -> None:
    assert weight_parts.of_layers(dict.fromkeys(names), "model.layers", total, (0,)) == {}


def test_layers_are_renumbered_under_the_names_of_the_files() -> None:
    stored = {"layers.0.a": 0, "layers.1.experts.1.a": 1, "layers.2.a": 2, "norm": 3}
    found = weight_parts.of_layers(stored, "model.layers", 3, (1, 2))
    assert found == {"layers.0.experts.1.a": 1, "layers.1.a": 2, "norm": 3}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("cut", [None, 200])
def test_a_head_alone_is_that_of_the_whole_model(
    architecture: str, cut: int | None, tmp_path: Path
) -> None:
    path = make_tiny(tmp_path, architecture)
    config = ModelConfig(model=path, vocab_size=cut)
    whole: Any = load_model(config, "cpu").get_output_embeddings()
    alone = load_head(config, "cpu", torch.float32)
    assert alone is not None
    assert torch.equal(alone.weight, whole.weight)
    assert (alone.bias is None) == (whole.bias is None)
    assert not alone.weight.requires_grad


def test_heads_that_only_the_library_can_load(tmp_path: Path) -> None:
    path = make_tiny(tmp_path)
    ways: list[dict[str, Any]] = [
        {"random_init": True},
        {"trust_remote_code": True},
        {"init_kwargs": {"device_map": "auto"}},
        {"vocab_size": 10**6},
    ]
    for way in ways:
        assert load_head(ModelConfig(model=path, **way), "cpu", torch.float32) is None, way


LIMITED = """
import os, resource, sys, torch
from sweeper.config.models import ModelConfig
from sweeper.distillation.models.loading import load_model
path, device, keep = sys.argv[1:]
torch.set_num_threads(1)
config = ModelConfig(model=path, keep_layers=int(keep) or None, dtype="float32")
load_model(config.model_copy(update={"model": path + "/tiny"}), device)  # whatever it imports
with open("/proc/self/statm") as file:
    data = int(file.read().split()[5]) * resource.getpagesize()
mapped = os.path.getsize(path + "/model.safetensors")
limit = data + mapped + 96 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
model = load_model(config, device)
assert next(model.parameters()).device.type == device
"""


@pytest.mark.slow
@pytest.mark.parametrize(("device", "keep"), [("meta", 0), ("meta", 4), ("cpu", 2)])
def test_no_whole_copy_comes_into_main_memory(device: str, keep: int, tmp_path: Path) -> None:
    """256 MiB of weights, 16 a layer; meta stands for a device with memory of its own.

    The files hold half of that, so that each weight that is read is copied.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    values = {"vocab_size": 64, "num_attention_heads": 4, "max_position_embeddings": 64}
    size = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16}
    large = AutoModelForCausalLM.from_config(LlamaConfig(**values, **size), dtype=torch.bfloat16)
    large.save_pretrained(tmp_path)
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4}
    dropping.write_model(LlamaConfig(**values, **tiny), tmp_path / "tiny")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), device, str(keep)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
