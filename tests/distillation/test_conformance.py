"""Arms differ in their sequences and their loss, and in nothing else.

Every method trains every kind of student. An update of a library that adds a side effect to one of
them fails here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.config.models import LoraConfig, ModelConfig, StudentConfig
from sweeper.config.settings import Method, MethodSettings, effective
from sweeper.config.study import TeacherOutputsConfig
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.loading import end_token_ids
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.distillation.train import TrainingJob, distil, starting_student, training_sequences
from sweeper.records import Resources
from tests.support.tiny_models import make_tiny
from tests.support.training_jobs import make_study_inputs

METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Kind:
    """A kind of student.

    Attributes:
        architecture: Of the model.
        student: Keys of the student.
        model: Of the model's configuration.
        settings: Of the training.
    """

    architecture: str = "qwen2"
    student: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


LORA = LoraConfig(r=4, alpha=8)
KINDS = {
    "whole, tied head": Kind(),
    "whole, untied head": Kind(model={"tie_word_embeddings": False}),
    "in bfloat16 autocast": Kind(settings={"bf16": True}),
    "layer-cut": Kind(student={"keep_layers": (0, 2)}, model={"layers": 3}),
    "LoRA": Kind(student={"lora": LORA}),
    "LoRA on bfloat16 weights": Kind(student={"lora": LORA, "dtype": "bfloat16"}),
    "QLoRA int4": Kind(student={"lora": LORA, "quantization": "int4"}, model={"width": 64}),
    "QLoRA int8": Kind(student={"lora": LORA, "quantization": "int8"}, model={"width": 64}),
    "mixture of experts": Kind("qwen3_moe"),
    "mixture that reports its router": Kind("mixtral", model={"output_router_logits": True}),
    "soft-capped": Kind("gemma2"),
    "checkpointed activations": Kind(settings={"gradient_checkpointing": True}),
}


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    return Resources(directory=str(tmp_path_factory.mktemp("job")), device="cpu", threads=1)


def state(model: Any) -> dict[str, Tensor]:
    return {name: weights.detach().clone() for name, weights in model.named_parameters()}


def written_config(model: Any, folder: Path) -> dict[str, Any]:
    """What the model's folder says of it."""
    model.config.save_pretrained(folder)
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", KINDS)
def test_arms_differ_in_nothing_but_sequences_and_loss(
    name: str, resources: Resources, tmp_path: Path
) -> None:
    kind = KINDS[name]
    if "quantization" in kind.student:
        pytest.importorskip("bitsandbytes")
    student = make_tiny(tmp_path / "student", kind.architecture, seed=1, spread=2.0, **kind.model)
    teacher = make_tiny(tmp_path / "teacher", kind.architecture, seed=2, spread=2.0)
    inputs = make_study_inputs(
        tmp_path,
        teacher=ModelConfig(model=teacher),
        student=StudentConfig(model=student, **kind.student),
        data=DataConfig(train=DatasetConfig(path="builtin/addition", limit=8)),
        teacher_outputs=TeacherOutputsConfig(max_new_tokens=8),
    )
    data = read_training_data(inputs)
    seen: dict[str, dict[str, Any]] = {}
    for method in METHODS:
        values = {
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-4,
            "max_length": 400,
            "max_new_tokens": 6,
            "lmbda": 0.5,
            "logging_steps": 1,
            "optim": "adamw_torch",
            **kind.settings,
        }
        settings = effective(method, MethodSettings(**values))
        start = starting_student(data, resources)
        config = written_config(start, tmp_path / f"before-{method}")
        before = state(start)
        points: list[dict[str, float]] = []
        trained, meter = distil(
            TrainingJob(
                data=data,
                resources=resources,
                model=start,
                teacher=inputs.teacher,
                method=method,
                settings=settings,
                seed=1,
                report=lambda step, total, metrics, points=points: points.append(metrics),
            )
        )
        seen[method] = {
            "trained": {n: str(w.dtype) for n, w in trained.named_parameters() if w.requires_grad},
            "forward": sorted(k for k in vars(trained) if "forward" in k),
            "training": {type(m).__name__ for m in trained.modules() if m.training},
        }
        assert meter.steps == 3 and len(points) == 3
        # Whatever is trained is in float32, and moves; nothing else does.
        for weights, values_now in state(trained).items():
            base = weights.replace("base_model.model.", "").replace(".base_layer", "")
            moves = weights in seen[method]["trained"]
            if moves:
                assert values_now.dtype == torch.float32, (method, weights)
            if base in before and before[base].shape == values_now.shape:
                same = torch.equal(before[base], values_now)
                # An expert that no token was sent to, or a token that is nowhere, has no gradient.
                assert moves or same, (method, weights)
                assert not (moves and same) or "expert" in weights, (method, weights)
            elif "lora_" in weights:
                moved = (values_now != 0).float().mean()
                assert moved > 0.99, (method, weights)
        assert written_config(trained, tmp_path / f"after-{method}") == config, method
        assert not any(k.startswith("_original_forward") for k in vars(trained)), method
        if method == "seqkd":
            # What the teacher was cut short in ends with no end token, by right.
            continue
        sequences = training_sequences(
            data, SharedTeacher(inputs, inputs.teacher, resources), method, settings
        )
        ends = {sequence.completion[-1] for sequence in sequences.sequences if sequence.completion}
        assert ends <= set(end_token_ids(trained, data.tokenizer)), (method, ends)
    first = seen[METHODS[0]]
    assert all(found == first for found in seen.values()), seen
