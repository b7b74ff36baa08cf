"""The teacher's stored hidden states: the same losses, computed once, within a bound."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.distillation.data.batches import IGNORED, PromptCollator
from sweeper.distillation.data.examples import TokenSequence
from sweeper.distillation.data.training_data import read_material
from sweeper.distillation.models.lm_head import Readout
from sweeper.distillation.models.loading import load_model
from sweeper.distillation.teacher import hidden_states
from sweeper.foundation.cache import directory_size
from sweeper.records import Origin, Place
from tests.distillation import jobs


def make_origin(folder: Path, **changes: Any) -> Origin:
    return jobs.make_origin(folder, **{"teacher_states_gib": 1.0, **changes})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(directory=str(tmp_path), device="cpu", threads=1)


def forbidden() -> Any:
    raise AssertionError("the teacher was asked again")


def sequences(origin: Origin, max_length: int = 128) -> tuple[TokenSequence, ...]:
    return read_material(origin).tokens(max_length).sequences


def entries(origin: Origin) -> list[Path]:
    return sorted((Path(origin.cache) / hidden_states.KIND).glob("[!.]*"))


def test_stored_states_are_the_teachers(tmp_path: Path, place: Place) -> None:
    origin = make_origin(tmp_path)
    data = sequences(origin)
    stored = hidden_states.obtain(origin, origin.teacher, data, place)
    assert stored is not None
    readout = Readout.of(load_model(origin.teacher, "cpu"), trained=False)
    for indices in ([3], [5, 0, 11]):
        pairs = [(data[i].prompt, data[i].completion or ()) for i in indices]
        batch = PromptCollator(0).pad(pairs)
        counted = batch["labels"][:, 1:] != IGNORED
        with torch.no_grad():
            expected = readout.states({"input_ids": batch["input_ids"]}, counted)
        assert torch.allclose(stored.of(indices), expected, atol=1e-5)
    again = hidden_states.obtain(origin, origin.teacher, data, place, forbidden)
    assert again is not None
    assert torch.equal(again.states, stored.states)


def test_other_sequences_or_teachers_are_other_states(tmp_path: Path, place: Place) -> None:
    origin = make_origin(tmp_path)
    data = sequences(origin)
    hidden_states.obtain(origin, origin.teacher, data, place)
    hidden_states.obtain(origin, origin.teacher, data[:6], place)
    half = origin.teacher.model_copy(update={"dtype": "bfloat16"})
    stored = hidden_states.obtain(origin, half, data, place)
    assert stored is not None
    assert stored.states.dtype == torch.bfloat16
    assert len(entries(origin)) == 3


def test_the_least_recently_used_states_go_first(tmp_path: Path, place: Place) -> None:
    origin = make_origin(tmp_path)
    data = sequences(origin)
    first, second, third = data[:4], data[4:8], data[8:12]
    for part in (first, second):
        hidden_states.obtain(origin, origin.teacher, part, place)
    size = max(directory_size(entry) for entry in entries(origin))
    kept = hidden_states.obtain(origin, origin.teacher, first, place, forbidden)
    assert kept is not None
    before = kept.states.clone()
    bound = origin.model_copy(update={"teacher_states_gib": 2.2 * size / 2**30})
    hidden_states.obtain(bound, origin.teacher, third, place)
    assert len(entries(origin)) == 2
    hidden_states.obtain(origin, origin.teacher, first, place, forbidden)
    with pytest.raises(AssertionError, match="asked again"):
        hidden_states.obtain(origin, origin.teacher, second, place, forbidden)
    assert torch.equal(kept.states, before)


@pytest.mark.parametrize("gib", [0.0, 1e-6])
def test_more_than_the_bound_is_not_stored(tmp_path: Path, place: Place, gib: float) -> None:
    origin = make_origin(tmp_path, teacher_states_gib=gib)
    data = sequences(origin)
    assert hidden_states.obtain(origin, origin.teacher, data, place) is None
    assert entries(origin) == []
    raised = make_origin(tmp_path)
    assert hidden_states.obtain(raised, origin.teacher, data, place) is not None


@pytest.mark.parametrize(
    ("method", "changes"),
    [("supervised_kd", {}), ("gkd", {"lmbda": 0.5}), ("supervised_kd", {"seq_kd": True})],
)
def test_training_is_the_same_with_stored_states(
    tmp_path: Path, place: Place, method: Any, changes: dict[str, Any]
) -> None:
    def train(**origin_changes: Any) -> tuple[list[float], float]:
        origin = make_origin(tmp_path, **origin_changes)
        values = {"max_steps": 4, "max_new_tokens": 6, "max_length": 128, **changes}
        _, meter, points = jobs.train(origin, place, method, **values)
        return [point["loss"] for point in points], meter.totals["trained_tokens"]

    stored, live = train(), train(teacher_states_gib=0.0)
    assert len(entries(make_origin(tmp_path))) == 1
    assert stored[0] == pytest.approx(live[0], rel=1e-4)
    assert stored[1] == live[1]


def _fill(origin: Origin, place: Place, start: Callable[[], Any], results: Any) -> None:
    torch.set_num_threads(1)
    start()
    stored = hidden_states.obtain(origin, origin.teacher, sequences(origin), place)
    results.put(None if stored is None else float(stored.states.sum()))


def test_several_trials_may_fill_it_at_once(tmp_path: Path, place: Place) -> None:
    origin = make_origin(tmp_path)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=_fill, args=(origin, place, barrier.wait, results)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    sums = {results.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(sums) == 1
    assert None not in sums
    assert len(entries(origin)) == 1
