"""What a trial took, read from what it said."""

from __future__ import annotations

import pytest

from sweeper.commands.check.measured_times import timing_of_probe
from sweeper.records import INTERIM_PHASE, IntermediateScore, Progress

MOST = 80


def point(time: float, step: int, **metrics: float) -> Progress:
    found = {"trained_tokens": 100.0 * step, "seconds_student": 0.5, **metrics}
    return Progress(time=time, phase="train", step=step, max_steps=MOST, metrics=found)


def begins(time: float, step: int) -> Progress:
    return Progress(time=time, phase="train", step=step, max_steps=MOST)


def pauses(time: float, step: int) -> Progress:
    return Progress(time=time, phase=INTERIM_PHASE, step=step, max_steps=MOST)


def scored(time: float, step: int, documents: int) -> Progress:
    # A fifth of them is of a task of weight 0.
    counted = (0.5,) * (documents - documents // 5)
    interim = IntermediateScore(index=0, score=0.5, documents=counted, scored=documents)
    return pauses(time, step).model_copy(update={"interim": interim})


LOADED = [Progress(time=101, phase="load"), begins(103, 0)]
FOUR_STEPS = [
    *LOADED,
    point(106, 1, seconds_rollout=9.0),
    point(107, 2, seconds_rollout=0.25, rollout_length=10),
    point(108, 3, seconds_rollout=0.25, rollout_length=14),
    pauses(109.5, 4),
    scored(111.5, 4, documents=50),
]


def test_the_first_step_is_part_of_the_start() -> None:
    rows = [*FOUR_STEPS, point(111.6, 4, seconds_rollout=0.25, rollout_length=12)]
    found = timing_of_probe(rows, 100.0, 100, {"lmbda": 1.0})
    assert found.step == pytest.approx(3.5 / 3)
    assert found.start + found.step == pytest.approx(6), "what came before the second step"
    assert found.steps == MOST
    assert found.parts["rollout"] == pytest.approx(0.25)
    assert (found.parts["student"], found.parts["teacher"]) == (0.5, 0.0)
    assert (found.trained_tokens, found.rollout_length) == (100, 12)
    # 50 of 100 documents took 2 s.
    assert found.scoring == pytest.approx(4)


def test_of_a_training_of_one_step_that_is_measured() -> None:
    rows = [*LOADED, pauses(105, 1), scored(106, 1, documents=10), point(106.1, 1)]
    rows = [row.model_copy(update={"max_steps": 1}) for row in rows]
    found = timing_of_probe(rows, 100.0, 10, {})
    assert (found.start, found.step, found.steps, found.scoring) == (3, 2, 1, 1)
