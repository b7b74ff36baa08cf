"""The divergence on fixed sequences: one yardstick for every trial."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.config.models import ModelConfig
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.teacher import kl_probe
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.records import Resources
from tests.support.training_jobs import make_study_inputs

PROMPTS = [f"{1000 + i}+{2000 + 7 * i}?" for i in range(40)]


@pytest.fixture
def fixed(tmp_path: Path) -> kl_probe.KLProbe:
    inputs = make_study_inputs(tmp_path)
    resources = Resources(directory=str(tmp_path), device="cpu", threads=1)
    teacher = SharedTeacher(inputs, inputs.teacher, resources)
    directory = kl_probe.prepare(read_training_data(inputs), teacher, PROMPTS)
    found = kl_probe.read(directory)
    assert found is not None
    return found


def test_the_teacher_is_no_distance_from_itself(fixed: kl_probe.KLProbe) -> None:
    teacher = load_model(ModelConfig(model="builtin/adder-teacher"), "cpu")
    assert fixed.divergence(teacher) == pytest.approx(0.0, abs=1e-6)


def test_it_is_the_mean_jensen_shannon_divergence_in_nats(fixed: kl_probe.KLProbe) -> None:
    student: Any = load_model(ModelConfig(model="builtin/adder-student"), "cpu")
    teacher: Any = load_model(ModelConfig(model="builtin/adder-teacher"), "cpu")
    total, count = 0.0, 0
    with torch.no_grad():
        for prompt, answer in fixed.sequences:
            tokens = torch.tensor([[*prompt, *answer]])
            span = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
            p = student(tokens).logits[0, span].double().softmax(-1)
            q = teacher(tokens).logits[0, span].double().softmax(-1)
            m = (p + q) / 2
            total += float((p * (p / m).log() + q * (q / m).log()).sum() / 2)
            count += len(answer)
    student.train()
    assert fixed.divergence(student) == pytest.approx(total / count, rel=1e-4)
    assert student.training
    for size in (1, 3, 8, 99):
        assert fixed.divergence(student, size) == pytest.approx(total / count, rel=1e-4)
    assert 0 < total / count < math.log(2)


def test_sequences_are_the_first_different_prompts(fixed: kl_probe.KLProbe) -> None:
    assert len(fixed.sequences) == kl_probe.MOST
    assert len({tuple(prompt) for prompt, _ in fixed.sequences}) == kl_probe.MOST
    assert all(answer for _, answer in fixed.sequences)


def test_what_is_gone_is_not_measured(tmp_path: Path) -> None:
    assert kl_probe.read(tmp_path / "nowhere") is None
