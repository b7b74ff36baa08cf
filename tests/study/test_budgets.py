"""What an arm may still start, from how its trials ended."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.config.study import StudyConfig
from sweeper.records import Cost, Failure, FailureKind, Outcome, Scores
from sweeper.study.budgets import TrialSummary, is_stale, stop_reason, summarize, trial_budgets
from tests.support.tiny_studies import adder_study

HOUR = 3600.0


def config(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(adder_study(**changes))


def ended(
    seconds: float = 10.0,
    score: float | None = 0.5,
    *,
    stderr: float = 0.0,
    kind: FailureKind | None = None,
    started: float = 0.0,
    earlier: float = 0.0,
) -> TrialSummary:
    scores = None
    if score is not None:
        scores = Scores(
            suite="s", suite_hash="h", score=score, stderr=stderr, higher_is_better=True,
            tasks=(), seconds=0.0,
        )  # fmt: skip
    outcome = Outcome(
        state="failed" if kind else "completed" if scores else "pruned",
        failure=Failure(kind=kind, message="m") if kind else None,
        scores=scores,
        cost=Cost(device_seconds=seconds),
        earlier_seconds=earlier,
        started=started,
        finished=started + seconds,
    )
    return summarize(outcome)


def reason(study: StudyConfig, arm: str, outcomes: Any, **more: Any) -> str | None:
    return stop_reason(study, arm, outcomes, higher_is_better=True, **more)


def test_the_studys_trials_are_given_out_evenly() -> None:
    arms = adder_study()["arms"]
    arms["sft"]["trials"] = 3
    study = config(trials=20, arms=arms, budget={"trials": 11})
    assert trial_budgets(study) == {"gkd": 8, "sft": 3}
    study = config(trials=20, arms=arms, budget={"trials": 5})
    assert trial_budgets(study) == {"gkd": 3, "sft": 2}
    study = config(trials=20, arms=arms, budget={"trials": 100})
    assert trial_budgets(study) == trial_budgets(config(trials=20, arms=arms)) == {
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


def test_an_arm_is_stale_when_its_best_has_not_risen_beyond_its_standard_error() -> None:
    rising = dict(enumerate(ended(score=score, stderr=0.05) for score in (0.3, 0.4, 0.5, 0.6)))
    assert not is_stale(rising, 2, higher_is_better=True)
    flat = rising | {4: ended(score=0.64), 5: ended(score=0.2)}
    assert is_stale(flat, 2, higher_is_better=True)
    assert not is_stale(flat, 3, higher_is_better=True)
    assert not is_stale(
        rising | {4: ended(score=0.66), 5: ended(score=0.2)}, 2, higher_is_better=True
    )
    failures = rising | {4: ended(score=None), 5: ended(score=None, kind="diverged")}
    assert is_stale(failures, 2, higher_is_better=True)
    assert not is_stale({0: ended(score=None), 1: ended(score=None)}, 1, higher_is_better=True)
    assert is_stale(rising, 2, higher_is_better=False)


def test_patience_of_an_arm_goes_before_the_studys() -> None:
    arms = adder_study()["arms"]
    arms["gkd"]["budget"] = {"patience": 4}
    study = config(arms=arms, budget={"patience": 2})
    flat = dict(enumerate(ended() for _ in range(4)))
    assert reason(study, "gkd", {"gkd": flat, "sft": flat}) is None
    assert reason(study, "sft", {"gkd": flat, "sft": flat}) == "patience"
