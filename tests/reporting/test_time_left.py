from __future__ import annotations

from sweeper.reporting.time_left import RunningTrial, estimate


def test_the_estimate_divides_the_work_among_the_workers() -> None:
    durations = {"gkd": [10.0, 20.0], "sft": [5.0]}

    assert estimate(durations, {"gkd": 4, "sft": 2}, workers=1) == 4 * 15 + 2 * 5
    assert estimate(durations, {"gkd": 4, "sft": 2}, workers=2) == 35


def test_the_estimate_takes_running_trials_as_partly_done() -> None:
    begun, late = RunningTrial("gkd", 5.0, 0.3), RunningTrial("gkd", 500.0, 1.0)
    assert estimate({"gkd": [20.0]}, {"gkd": 3}, workers=1, running=[begun]) == 55
    assert estimate({"gkd": [20.0]}, {"gkd": 1}, workers=1, running=[late]) == 0


def test_a_running_trial_tells_how_long_its_arm_takes() -> None:
    half = RunningTrial("gkd", 30.0, 0.5)
    assert estimate({"sft": [5.0]}, {"gkd": 1}, workers=1, running=[half]) == 30
    assert estimate({}, {"gkd": 2}, workers=1, running=[half]) == 90
    assert estimate({}, {"gkd": 2}, workers=1, running=[RunningTrial("gkd", 1.0, 0.0)]) is None


def test_more_workers_than_trials_do_not_make_a_trial_shorter() -> None:
    assert estimate({"gkd": [20.0]}, {"gkd": 2}, workers=8) == 20


def test_an_arm_without_a_finished_trial_is_taken_as_average() -> None:
    assert estimate({"gkd": [20.0], "seqkd": []}, {"seqkd": 2}, workers=1) == 40


def test_without_a_finished_trial_there_is_no_estimate() -> None:
    assert estimate({}, {"gkd": 2}, workers=1) is None
    assert estimate({}, {"gkd": 0}, workers=1) == 0
