"""Trials that read stored states alone: the same training, without the teacher's body."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sweeper.config.models import ModelConfig
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.lm_head import LMHead, head_of
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.teacher import hidden_states, kl_probe, shared_teacher
from sweeper.distillation.teacher.head_alone import HeadTraits
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.records import Resources, StudyInputs
from tests.support import training_jobs as jobs
from tests.support.tiny_models import ARCHITECTURES, make_tiny


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(directory=str(tmp_path), device="cpu", threads=1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_gives_the_logits_of_the_model(architecture: str, tmp_path: Path) -> None:
    config = ModelConfig(model=make_tiny(tmp_path, architecture))
    whole = LMHead.of(load_model(config, "cpu"), trained=False)
    traits = HeadTraits.of(whole)
    assert traits is not None
    stored = HeadTraits.model_validate_json(traits.model_dump_json())
    alone = stored.load(config, "cpu")
    assert alone is not None
    states = torch.randn(5, traits.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(alone.logits(states), whole.logits(states))


@pytest.mark.parametrize(
    "other",
    [{"shape": (7, 7)}, {"corners": ((0.0,) * 8,) * 2}, {"dtype": "float64"}],
    ids=str,
)
def test_other_weights_than_the_states_were_made_with_are_refused(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    config = ModelConfig(model=make_tiny(tmp_path))
    traits = HeadTraits.of(LMHead.of(load_model(config, "cpu"), trained=False))
    assert traits is not None
    changed = traits.model_copy(update=other).load(config, "cpu")
    # In another type it is the same head, as it is stored.
    assert (changed is not None) == ("dtype" in other)


def trained(
    folder: Path, resources: Resources, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> tuple[list[float], int]:
    """Train, and return the losses and how often a teacher was loaded."""
    loads: list[str] = []
    load = shared_teacher.load_model

    def counted(*args: Any, **kwargs: Any) -> Any:
        loads.append("whole")
        return load(*args, **kwargs)

    monkeypatch.setattr(shared_teacher, "load_model", counted)
    inputs = jobs.make_study_inputs(folder, **{"teacher_states_gib": 1.0})
    method = changes.pop("method", "supervised_kd")
    values = {"max_steps": 2, "max_length": 128, **changes}
    _, _, points = jobs.train(inputs, resources, method, **values)
    monkeypatch.undo()
    return [point["loss"] for point in points], len(loads)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "loads"),
    [
        ({}, 0),
        ({"method": "gkd", "lmbda": 0.0}, 0),
        ({"bf16": True}, 0),
        ({"method": "gkd", "lmbda": 0.5}, 1),
        ({"method": "gkd", "lmbda": 1.0}, 1),
    ],
    ids=str,
)
def test_the_body_is_loaded_only_where_it_reads(
    tmp_path: Path,
    resources: Resources,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    loads: int,
) -> None:
    first, computing = trained(tmp_path, resources, monkeypatch, **changes)
    again, later = trained(tmp_path, resources, monkeypatch, **changes)
    assert (computing, later) == (1, loads)
    assert again == first


@pytest.mark.slow
def test_entries_without_traits_need_the_whole_teacher(
    tmp_path: Path, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of earlier versions."""
    monkeypatch.setattr(HeadTraits, "of", classmethod(lambda cls, head: None))
    first, _ = trained(tmp_path, resources, monkeypatch)
    monkeypatch.setattr(HeadTraits, "of", classmethod(lambda cls, head: None))
    assert trained(tmp_path, resources, monkeypatch) == (first, 1)


def probe_of(inputs: StudyInputs, resources: Resources) -> kl_probe.KLProbe:
    teacher = SharedTeacher(inputs, inputs.teacher, resources)
    directory = kl_probe.prepare(read_training_data(inputs), teacher, ["1+2?", "3+4?"])
    found = kl_probe.read(directory)
    assert found is not None
    return found


def heads_used(probe: kl_probe.KLProbe, monkeypatch: pytest.MonkeyPatch) -> list[nn.Linear]:
    used: list[nn.Linear] = []
    head_on = kl_probe.KLProbe._head_on

    def watched(self: kl_probe.KLProbe, device: torch.device) -> nn.Linear:
        used.append(head_on(self, device))
        return used[-1]

    monkeypatch.setattr(kl_probe.KLProbe, "_head_on", watched)
    return used


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gkd", "supervised_kd", "sft"])
def test_a_training_has_one_head_of_the_teacher(
    tmp_path: Path, resources: Resources, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    inputs = jobs.make_study_inputs(tmp_path, **{"teacher_states_gib": 1.0})
    probe, values = probe_of(inputs, resources), list[float]()
    used = heads_used(probe, monkeypatch)

    def measure(model: Any) -> float:
        values.append(probe.divergence(model))
        return values[-1]

    jobs.train(inputs, resources, method, probe=measure, lend_head=probe.lend, max_steps=2)
    own = probe.head.weight
    assert used and all(torch.equal(head.weight, own) for head in used)
    lent = [head.weight.data_ptr() != own.data_ptr() for head in used]
    assert all(lent) if method != "sft" else not any(lent)
    monkeypatch.undo()
    # It is not kept longer than the teacher.
    used.clear()
    gc.collect()
    assert probe._head_on(torch.device("cpu")).weight.data_ptr() == own.data_ptr()

    plain = probe_of(inputs, resources)
    alone = list[float]()
    jobs.train(
        inputs, resources, method, probe=lambda m: alone.append(plain.divergence(m)), max_steps=2
    )
    assert values == alone


def test_a_head_in_another_precision_is_not_borrowed(tmp_path: Path, resources: Resources) -> None:
    probe = probe_of(jobs.make_study_inputs(tmp_path), resources)
    teacher: Any = load_model(ModelConfig(model="builtin/adder-teacher"), "cpu")
    head = head_of(teacher)
    probe.lend(head)
    assert probe._head_on(torch.device("cpu")) is head
    head.weight.data = head.weight.data.bfloat16()
    assert probe._head_on(torch.device("cpu")) is not head
    probe.lend(nn.Identity())
    assert probe._head_on(torch.device("cpu")).weight.dtype == torch.float32


def test_stored_states_carry_the_traits(tmp_path: Path, resources: Resources) -> None:
    inputs = jobs.make_study_inputs(tmp_path, **{"teacher_states_gib": 1.0})
    teacher = SharedTeacher(inputs, inputs.teacher, resources)
    sequences = read_training_data(inputs).tokens(128).sequences
    assert hidden_states.get_or_compute(teacher, sequences, compute=False) is None
    stored = hidden_states.get_or_compute(teacher, sequences)
    again = hidden_states.get_or_compute(teacher, sequences, compute=False)
    assert stored is not None and again is not None
    assert again.head == stored.head is not None
