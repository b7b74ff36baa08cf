"""From what a few trials take to the whole study."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.analysis.timing import ArmTiming, DurationEstimate, StudyTiming
from sweeper.commands.check.duration_estimate import estimate, wall_seconds
from sweeper.commands.check.run_checks import plan_of, time_findings
from sweeper.config.study import StudyConfig
from tests.support.timings import study_timing, timing
from tests.support.tiny_studies import adder_study


def config(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(adder_study(trials=4, **changes), strict=False)


def phases(found: DurationEstimate) -> dict[str, float]:
    return {phase.name: phase.device_seconds for phase in found.phases}


def expected(timing: StudyTiming, documents: int, **changes: Any) -> DurationEstimate:
    return estimate(timing, plan_of(config(**changes), documents))


def test_jobs_take_rounds_and_no_less_than_the_longest() -> None:
    assert wall_seconds([3, 3, 1], workers=1) == 7
    assert wall_seconds([4, 4, 4], workers=2) == 8, "the third waits for a worker"
    assert wall_seconds([3, 1], workers=2) == 3
    assert wall_seconds([], workers=2) == 0


def test_a_trial_is_expected_to_take_the_mean_of_the_two() -> None:
    short, long = timing(1.0), timing(2.0).model_copy(update={"steps": 30})
    mean = ArmTiming(arm="a", method="sft", lightest=short, heaviest=long).mean
    assert (mean.steps, mean.seconds) == (20, pytest.approx((13 + 63) / 2))


def test_without_confirmation_a_study_is_its_preparation_and_its_search() -> None:
    found = expected(study_timing(), 8)
    # gkd's trials are half way between 5 and 10 s.
    assert phases(found) == {"preparation": 13.0, "search": pytest.approx(4 * 7.5 + 4 * 5)}
    assert found.wall_seconds == pytest.approx(13 + 50)
    assert found.wall_range == (pytest.approx(13 + 40), pytest.approx(13 + 60))
    assert found.device_hours == pytest.approx(63 / 3600)
    gkd, sft = found.arms
    assert (gkd.trials, gkd.trainings, gkd.trial_range) == (4, 0, (pytest.approx(5), 10.0))
    assert sft.trial_range == (5.0, 5.0)
    assert sft.tokens_per_second == pytest.approx(500)


def test_workers_share_the_work_but_for_the_data_step() -> None:
    found = expected(study_timing(workers=2), 8)
    wall = {phase.name: phase.wall_seconds for phase in found.phases}
    assert wall == {"preparation": 4 + 6, "search": pytest.approx(25)}
    assert sum(phases(found).values()) == pytest.approx(63), "no work is saved"


def test_winners_are_trained_with_every_seed_and_scored_on_both_suites() -> None:
    found = expected(study_timing(), 50, confirm={"seeds": 3}, compare_at=["steps"])
    assert [arm.trainings for arm in found.arms] == [3, 3]
    assert phases(found)["confirmation"] == pytest.approx(3 * 7.5 + 3 * 5)
    # 50 documents instead of 100: a student takes 1 s, the teacher 2.5 s.
    assert phases(found)["test scoring"] == pytest.approx(6 * 1 + 2.5 + 1)
    assert found.wall_seconds == pytest.approx(sum(phases(found).values()))


def test_at_equal_seconds_the_cheaper_winner_trains_as_long_as_the_more_expensive() -> None:
    found = expected(study_timing(), 50, confirm={"seeds": 3})
    # As many tokens a step in both arms: nothing to do again. Of seconds, 4.5 against 2.
    assert [arm.trainings for arm in found.arms] == [3, 6]
    assert phases(found)["confirmation"] == pytest.approx(3 * 7.5 + 3 * 5 + 3 * (1 + 4.5 + 2))


def test_intermediate_scores_cost_time() -> None:
    pruner = {"type": "median", "at": [0.5], "documents": 25, "startup_trials": 2}
    # A quarter of the suite, once in every trial: half a second each.
    search = phases(expected(study_timing(), 8, pruner=pruner))["search"]
    assert search == pytest.approx(4 * 8 + 4 * 5.5)


def test_an_arm_without_a_search_is_not_pruned() -> None:
    arms = {"gkd": {"settings": {"lmbda": 1.0}}, "sft": {}}
    found = expected(study_timing(), 8, arms=arms, pruner="median")
    assert phases(found)["search"] == pytest.approx(7.5 + 5)
    assert [arm.trials for arm in found.arms] == [1, 1]


def findings(measured: StudyTiming, **changes: Any) -> dict[str, tuple[str, str]]:
    found = time_findings(config(**changes), measured, expected(measured, 8, **changes))
    return {row.what: (row.state, f"{row.detail}. {row.advice}") for row in found}


def test_the_time_is_reported_with_its_phases() -> None:
    found = findings(study_timing())
    assert list(found) == ["time"]
    assert found["time"][1].startswith(
        "about 1 min 3 s on 1 worker (53 s if all trials are cheap, 1 min 13 s if all are"
        " expensive), 0.018 device-hours: search 79 %, preparation 21 %"
    )


@pytest.mark.parametrize(("device", "told"), [("cuda:0", True), ("cpu", False)])
def test_a_teachers_server_takes_devices_of_its_own(device: str, told: bool) -> None:
    teacher = {"model": "models/large", "server": {"start": "vllm", "gpus": 2}}
    arms = {"gkd": {"method": "seqkd", "trials": 1}, "sft": {"trials": 1}}
    found = findings(study_timing(device=device), teacher=teacher, arms=arms)
    # 13 s of preparation on two GPUs.
    assert ("; about 0.0072 more of the teacher's server" in found["time"][1]) == told


@pytest.mark.parametrize(
    ("budget", "state", "told"),
    [
        ({"wall_time": 1000}, "ok", "the search ends within it"),
        ({"wall_time": 30}, "warning", "wall_time ends the search after 30 s of 50 s"),
        # 18 s for each arm: 2 trials of 7.5 s, 3 of 5 s.
        ({"device_hours": 0.01}, "warning", "device_hours end gkd after 2 of 4 trials"),
    ],
)
def test_a_budget_that_ends_the_search_early_is_told(
    budget: dict[str, Any], state: str, told: str
) -> None:
    found = findings(study_timing(), budget=budget)["budget"]
    assert found[0] == state
    assert told in found[1]


def test_trials_that_would_be_ended_for_being_slow_are_told() -> None:
    assert list(findings(study_timing(), compute={"trial_timeout": 10.5})) == ["time"]
    found = findings(study_timing(), compute={"trial_timeout": 9, "stall_timeout": 1.5})
    assert "too short for trials of gkd, which take up to 10 s" in found["trial timeout"][1]
    assert "too short for scoring, which takes 2.0 s" in found["stall timeout"][1]


def test_slow_training_is_told_with_what_helps_in_order() -> None:
    slow = {"gkd": 7.0, "device": "cuda:0"}
    training = {**adder_study()["training"], "gradient_accumulation_steps": 4}
    eager = {"model": "builtin/adder-teacher", "init_kwargs": {"attn_implementation": "eager"}}
    changes = {"training": training, "teacher": eager}
    [advice] = [
        advice
        for what, (_, advice) in findings(study_timing(**slow), **changes).items()
        if what == "slow training"
    ]
    assert "gkd spends 60 % of a step on sampling, 20 % on the teacher" in advice
    places = [
        advice.index(text)
        for text in (
            "max_new_tokens (up to 8)",
            "rollouts: {engine: auto}",
            "per_device_train_batch",
            "eager of the teacher",
        )
    ]
    assert places == sorted(places)
    assert "compile" not in advice, "the teacher is not what it waits for"
    assert "slow training" not in findings(study_timing()), "a few seconds"
