"""The teacher's stored hidden states: the same losses, computed once, within a bound."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.distillation.data.batches import PromptCollator, counted_positions
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.data.training_data import read_training_data
from sweeper.distillation.models.lm_head import LMHead
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.teacher import hidden_states
from sweeper.distillation.teacher.shared_teacher import SharedTeacher
from sweeper.foundation.cache import directory_size
from sweeper.records import Resources, StudyInputs
from tests.support import training_jobs as jobs


def make_study_inputs(folder: Path, **changes: Any) -> StudyInputs:
    return jobs.make_study_inputs(folder, **{"teacher_states_gib": 1.0, **changes})


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(directory=str(tmp_path), device="cpu", threads=1)


class Forbidden(SharedTeacher):
    """A teacher that must not be loaded."""

    def load(self) -> Any:
        raise AssertionError("the teacher was asked again")


def teacher_of(inputs: StudyInputs, resources: Resources) -> SharedTeacher:
    return SharedTeacher(inputs, inputs.teacher, resources)


def sequences(inputs: StudyInputs, max_length: int = 128) -> tuple[TokenSequence, ...]:
    return read_training_data(inputs).tokens(max_length).sequences


def entries(inputs: StudyInputs) -> list[Path]:
    return sorted((Path(inputs.cache) / hidden_states.KIND).glob("[!.]*"))


def test_stored_states_are_the_teachers(tmp_path: Path, resources: Resources) -> None:
    inputs = make_study_inputs(tmp_path)
    data = sequences(inputs)
    stored = hidden_states.get_or_compute(teacher_of(inputs, resources), data)
    assert stored is not None
    lm_head = LMHead.of(load_model(inputs.teacher, "cpu"), trained=False)
    for indices in ([3], [5, 0, 11]):
        pairs = [(data[i].prompt, data[i].completion or ()) for i in indices]
        batch = PromptCollator(0).pad(pairs)
        positions = counted_positions(batch["labels"])
        with torch.no_grad():
            expected = lm_head.states({"input_ids": batch["input_ids"]}, positions)
        assert torch.allclose(stored.of(indices), expected, atol=1e-5)
    again = hidden_states.get_or_compute(Forbidden(inputs, inputs.teacher, resources), data)
    assert again is not None
    assert torch.equal(again.states, stored.states)


def test_other_sequences_or_teachers_are_other_states(tmp_path: Path, resources: Resources) -> None:
    inputs = make_study_inputs(tmp_path)
    data = sequences(inputs)
    hidden_states.get_or_compute(teacher_of(inputs, resources), data)
    hidden_states.get_or_compute(teacher_of(inputs, resources), data[:6])
    half = inputs.teacher.model_copy(update={"dtype": "bfloat16"})
    stored = hidden_states.get_or_compute(SharedTeacher(inputs, half, resources), data)
    assert stored is not None
    assert stored.states.dtype == torch.bfloat16
    assert len(entries(inputs)) == 3


def test_the_least_recently_used_states_go_first(tmp_path: Path, resources: Resources) -> None:
    inputs = make_study_inputs(tmp_path)
    data = sequences(inputs)
    first, second, third = data[:4], data[4:8], data[8:12]
    for part in (first, second):
        hidden_states.get_or_compute(teacher_of(inputs, resources), part)
    size = max(directory_size(entry) for entry in entries(inputs))
    kept = hidden_states.get_or_compute(Forbidden(inputs, inputs.teacher, resources), first)
    assert kept is not None
    before = kept.states.clone()
    bound = inputs.model_copy(update={"teacher_states_gib": 2.2 * size / 2**30})
    hidden_states.get_or_compute(teacher_of(bound, resources), third)
    assert len(entries(inputs)) == 2
    hidden_states.get_or_compute(Forbidden(inputs, inputs.teacher, resources), first)
    with pytest.raises(AssertionError, match="asked again"):
        hidden_states.get_or_compute(Forbidden(inputs, inputs.teacher, resources), second)
    assert torch.equal(kept.states, before)


@pytest.mark.parametrize("gib", [0.0, 1e-6])
def test_more_than_the_bound_is_not_stored(
    tmp_path: Path, resources: Resources, gib: float
) -> None:
    inputs = make_study_inputs(tmp_path, teacher_states_gib=gib)
    data = sequences(inputs)
    assert hidden_states.get_or_compute(teacher_of(inputs, resources), data) is None
    assert entries(inputs) == []
    raised = make_study_inputs(tmp_path)
    assert hidden_states.get_or_compute(teacher_of(raised, resources), data) is not None


@pytest.mark.parametrize(
    ("method", "changes"),
    [("supervised_kd", {}), ("gkd", {"lmbda": 0.5}), ("supervised_kd", {"seq_kd": True})],
)
def test_training_is_the_same_with_stored_states(
    tmp_path: Path, resources: Resources, method: Any, changes: dict[str, Any]
) -> None:
    def train(**origin_changes: Any) -> tuple[list[float], float]:
        inputs = make_study_inputs(tmp_path, **origin_changes)
        values = {"max_steps": 4, "max_new_tokens": 6, "max_length": 128, **changes}
        _, meter, points = jobs.train(inputs, resources, method, **values)
        return [point["loss"] for point in points], meter.totals["trained_tokens"]

    stored, live = train(), train(teacher_states_gib=0.0)
    assert len(entries(make_study_inputs(tmp_path))) == 1
    assert stored[0] == pytest.approx(live[0], rel=1e-4)
    assert stored[1] == live[1]


def _fill(
    inputs: StudyInputs, resources: Resources, start: Callable[[], Any], results: Any
) -> None:
    torch.set_num_threads(1)
    start()
    stored = hidden_states.get_or_compute(teacher_of(inputs, resources), sequences(inputs))
    results.put(None if stored is None else float(stored.states.sum()))


@pytest.mark.soak
def test_several_trials_may_fill_it_at_once(tmp_path: Path, resources: Resources) -> None:
    inputs = make_study_inputs(tmp_path)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=_fill, args=(inputs, resources, barrier.wait, results))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    sums = {results.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(sums) == 1
    assert None not in sums
    assert len(entries(inputs)) == 1
