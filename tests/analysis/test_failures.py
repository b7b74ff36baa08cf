"""Where trials failed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sweeper.analysis.failures import FailureGroup, failure_groups
from sweeper.records.study_record import TrialRecord
from sweeper.reporting.text.training import failure_sentence
from tests.support.example_study import arm, completed, failed, study, trial


def groups(trials: list[TrialRecord]) -> tuple[FailureGroup, ...]:
    return failure_groups(study([arm("gkd", trials)]))


def diverging(number: int, rate: float, diverges: bool, **params: Any) -> TrialRecord:
    outcome = failed("diverged", "NaN") if diverges else completed(0.5)
    return trial(number, outcome, learning_rate=rate, **params)


def test_failures_above_a_threshold_are_told() -> None:
    rng = random.Random(0)
    rates = [0.001 + n / 10_000 for n in range(20)]
    trials = [
        diverging(n, rate, rate >= 0.00245 and n != 19, lmbda=rng.random())
        for n, rate in enumerate(rates)
    ]
    [group] = groups(trials)
    assert (group.kind, len(group.trials), group.ended) == ("diverged", 4, 20)
    assert group.region is not None
    assert (group.region.setting, group.region.relation) == ("learning_rate", "at least")
    assert group.region.value == pytest.approx(0.0025)
    assert (group.region.failed_inside, group.region.others_inside) == (4, 1)
    assert group.region.p_fisher == pytest.approx(5 / 4845)
    assert group.region.p_fisher < group.region.p <= 0.05


def test_failures_at_a_choice_are_told_and_kinds_are_kept_apart() -> None:
    trials = [
        diverging(n, 0.001, n % 3 == 0, **{"optim": "sgd" if n % 3 == 0 else "adamw"})
        for n in range(18)
    ]
    trials.append(trial(18, failed("out_of_memory"), learning_rate=0.001, optim="adamw"))
    diverged, memory = groups(trials)
    assert diverged.region is not None
    assert (diverged.region.setting, diverged.region.value) == ("optim", "sgd")
    assert memory.region is None


def test_what_to_change_is_told_where_memory_ran_out() -> None:
    trials = [
        trial(n, failed("out_of_memory"), per_device_train_batch_size=rows)
        for n, rows in enumerate((16, 8))
    ]
    arms = {"gkd": {"settings": {"gradient_checkpointing": True}}}
    config = {
        "study": "s",
        "teacher": {"model": "t"},
        "student": {"model": "s"},
        "data": {"train": {"path": "rows.jsonl"}},
        "arms": arms,
        "evaluation": {"selection": "selection.yaml"},
    }
    [group] = failure_groups(study([arm("gkd", trials)], config=config))
    first, *others = group.remedies
    assert first.startswith("per_device_train_batch_size: 4 with gradient_accumulation_steps: 2")
    assert others == [
        "teacher.quantization: int8",
        "a smaller teacher.model",
        "student.lora: {r: 16}",
    ]
    assert f"To need less, in the order to try: {first}; " in failure_sentence(group)


def test_what_the_lightest_trial_itself_left_to_try_is_told_where_memory_ran_out() -> None:
    trials = []
    for number, (rows, remedies) in enumerate({16: ("a", "b"), 2: ("b",), 8: ("c",)}.items()):
        outcome = failed("out_of_memory")
        assert outcome.failure is not None
        failure = outcome.failure.model_copy(update={"remedies": remedies})
        outcome = outcome.model_copy(update={"failure": failure})
        record = trial(number, outcome)
        # As it was at last: all were written with 16, and tried again with fewer.
        settings = {**record.settings, "per_device_train_batch_size": rows}
        trials.append(record.model_copy(update={"settings": settings}))
    [group] = groups(trials)
    assert group.remedies == ("b",)


def test_chance_is_not_told() -> None:
    told = 0
    for seed in range(40):
        rng = random.Random(seed)
        trials = [
            diverging(n, rng.random(), n < 4, lmbda=rng.random(), temperature=rng.random())
            for n in range(20)
        ]
        told += groups(trials)[0].region is not None
    assert told <= 5


def test_without_settings_or_others_there_are_only_counts() -> None:
    assert groups([]) == ()
    [alone] = groups([trial(0, failed("bug", "x"))])
    assert alone.region is None
    [everything] = groups([diverging(n, 0.1 * (n + 1), True) for n in range(8)])
    assert (len(everything.trials), everything.region) == (8, None)
