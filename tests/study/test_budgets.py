"""What an arm may still start, from how its trials ended."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.config.study import StudyConfig
from sweeper.records import FailureKind, Outcome
from sweeper.study.budgets import summarize, trial_budgets
from tests.support.tiny_studies import adder_study
from tests.support.trial_summaries import config, ended, reason

HOUR = 3600.0


def given(study: StudyConfig) -> dict[str, int]:
    return trial_budgets(study.arms, study.trials, study.sampler, study.budget.trials)


def test_the_studys_trials_are_given_out_evenly() -> None:
    arms = adder_study()["arms"]
    arms["sft"]["trials"] = 3
    study = config(trials=20, arms=arms, budget={"trials": 11})
    assert given(study) == {"gkd": 8, "sft": 3}
    study = config(trials=20, arms=arms, budget={"trials": 5})
    assert given(study) == {"gkd": 3, "sft": 2}
    study = config(trials=20, arms=arms, budget={"trials": 100})
    assert given(study) == given(config(trials=20, arms=arms)) == {
        "gkd": 20,
        "sft": 3,
    }  # fmt: skip


def test_device_hours_are_divided_evenly_and_an_arm_may_have_its_own() -> None:
    spent_half = {"gkd": {0: ended(0.5 * HOUR)}, "sft": {0: ended(0.5 * HOUR)}}
    assert reason(config(budget={"device_hours": 2.0}), "gkd", spent_half) is None
    assert reason(config(budget={"device_hours": 1.9}), "gkd", spent_half) == "device_hours"
    arms = adder_study()["arms"]
    arms["gkd"]["budget"] = {"device_hours": 1.5}
    study = config(arms=arms, budget={"device_hours": 2.0})
    assert reason(study, "gkd", spent_half) is None
    assert reason(study, "sft", spent_half) == "device_hours"


def test_nothing_starts_that_would_not_end_within_the_budget() -> None:
    study = config(budget={"device_hours": 100 / HOUR})  # 50 s an arm
    assert reason(study, "gkd", {}) is None
    assert reason(study, "gkd", {"gkd": {0: ended(20), 1: ended(10)}}) is None
    assert reason(study, "gkd", {"gkd": {0: ended(20), 1: ended(11)}}) == "device_hours"
    # Without a trial of its own, an arm expects what others took.
    assert reason(study, "gkd", {"sft": {0: ended(51)}}) == "device_hours"
    # One that did not complete may be the longest.
    late = {"gkd": {0: ended(10), 1: ended(25, None, kind="timeout")}}
    assert reason(study, "gkd", late) == "device_hours"
    # What runs is expected to take as long as the longest, or as long as it already has.
    one = {"gkd": {0: ended(20)}}
    assert reason(study, "gkd", one, running=[("sft", 0.0)], now=5.0) is None
    assert reason(study, "gkd", one, running=[("gkd", 0.0)], now=5.0) == "device_hours"
    quick = {"gkd": {0: ended(10)}}
    assert reason(study, "gkd", quick, running=[("gkd", 0.0)], now=5.0) is None
    assert reason(study, "gkd", quick, running=[("gkd", 0.0)], now=31.0) == "device_hours"


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        (None, 10.0),
        ("out_of_memory", 10.0),
        ("diverged", 10.0),
        ("timeout", 10.0),
        ("stalled", 10.0),
        ("bug", 10.0),
        ("lost", 0.0),
    ],
)
def test_lost_attempts_are_not_spent_and_everything_else_is(
    kind: FailureKind | None, seconds: float
) -> None:
    assert ended(10.0, None, kind=kind).spent == seconds
    assert ended(10.0, None, kind=kind, earlier=4.0).spent == (seconds and seconds + 4.0)


def test_wall_time_counts_when_any_trial_runs() -> None:
    study = config(budget={"wall_time": "100s"})
    beside = {"gkd": {0: ended(40)}, "sft": {0: ended(40, started=20)}}  # 60 s
    assert reason(study, "gkd", beside) is None
    apart = {"gkd": {0: ended(40)}, "sft": {0: ended(40, started=1000)}}  # 80 s, and a pause
    assert reason(study, "gkd", apart) == "wall_time"
    twice = {"gkd": {0: ended(31, started=20, earlier=20)}, "sft": {0: ended(1, started=40)}}
    assert reason(study, "gkd", twice) == "wall_time"  # 51 s, and as long again
    running = [("gkd", 1000.0)]
    assert reason(study, "gkd", {"gkd": {0: ended(40)}}, running=running, now=1015.0) is None
    assert reason(study, "gkd", {"gkd": {0: ended(40)}}, running=running, now=1021.0) == "wall_time"


def test_a_trial_on_two_devices_spends_two_device_seconds_a_second() -> None:
    def limited(**budget: Any) -> StudyConfig:
        return config(budget=budget, compute={"devices_per_trial": 2})

    study = limited(device_hours=100 / HOUR)  # 50 s an arm
    one = {"gkd": {0: ended(10)}}
    assert reason(study, "gkd", one, running=[("gkd", 0.0)], now=14.0) is None
    assert reason(study, "gkd", one, running=[("gkd", 0.0)], now=16.0) == "device_hours"
    # 20 s, and 10 s of each of two devices.
    one = {"gkd": {0: ended(20)}}
    assert reason(limited(wall_time="31s"), "gkd", one) is None
    assert reason(limited(wall_time="29s"), "gkd", one) == "wall_time"
    shared = {"earlier_seconds": 8.0, "started": 10.0, "finished": 20.0, "devices": 2}
    assert summarize(Outcome(state="completed", **shared)).started == 6.0
