"""What a trial took, read from what it said."""

from __future__ import annotations

import pytest

from sweeper.commands.check.measured_times import timing_of_probe, timing_of_study
from sweeper.records import INTERIM_PHASE, IntermediateScore, Progress
from tests.support.example_study import arm, completed, failed, study, trial

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


def test_the_trials_of_a_study_are_measured() -> None:
    # 300 steps take 7 tenths of a trial, scoring 3; that of the whole suite at its end 2.5 s.
    took = {0: 20.0, 1: 40.0, 2: 24.0}
    trials = [trial(number, completed(0.5, seconds=seconds)) for number, seconds in took.items()]
    record = study([arm("gkd", [*trials, trial(3, failed())])])
    found = timing_of_study(record, ["gkd"], workers=2)
    assert found is not None
    assert (found.basis, found.trials, found.workers) == ("records", 3, 2)
    assert found.preparation == {"teacher": 3, "student": 2}
    [gkd] = found.arms
    light, heavy = gkd.lightest.seconds, gkd.heaviest.seconds
    assert (light, heavy) == (pytest.approx(14 + 2.5), pytest.approx(28 + 2.5)), (
        "the estimate adds what a pruner looks at"
    )
    assert gkd.mean.seconds == pytest.approx((16.5 + 30.5) / 2)
    assert gkd.lightest.step == pytest.approx(14 / 300)
    assert gkd.lightest.scoring == 2.5


def test_an_arm_that_was_added_or_has_no_scored_trial_leaves_the_time_unknown() -> None:
    trials = [trial(0, completed(0.5))]
    record = study([arm("gkd", trials), arm("sft", [trial(0, failed()), trial(1, None)])])
    assert timing_of_study(record, ["gkd", "sft"], workers=1) is None
    assert timing_of_study(study([arm("gkd", trials)]), ["gkd", "sft"], workers=1) is None
