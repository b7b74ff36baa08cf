"""From what a few trials take to the whole study."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.analysis.timing import DurationEstimate, StudyTiming
from sweeper.commands.check.duration import time_findings
from sweeper.commands.check.duration_estimate import estimate, makespan
from sweeper.config.study import StudyConfig
from tests.support.timings import study_pace
from tests.support.tiny_studies import adder_study


def config(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(adder_study(trials=4, **changes), strict=False)


def phases(found: DurationEstimate) -> dict[str, float]:
    return {phase.name: phase.device_seconds for phase in found.phases}


def test_jobs_start_in_turns_where_there_is_room() -> None:
    assert makespan({"a": [3, 3], "b": [1]}, workers=1) == 7
    # a (3) beside b (1), then a (3) after b: the second worker ends at 4.
    assert makespan({"a": [3, 3], "b": [1]}, workers=2) == 4
    assert makespan({}, workers=2) == 0


def test_without_confirmation_a_study_is_its_preparation_and_its_search() -> None:
    found = estimate(config(), study_pace(), 8)
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
    found = estimate(config(), study_pace(workers=2), 8)
    wall = {phase.name: phase.wall_seconds for phase in found.phases}
    assert wall == {"preparation": 4 + 6, "search": pytest.approx(25)}
    assert sum(phases(found).values()) == pytest.approx(63), "no work is saved"


def test_winners_are_trained_with_every_seed_and_scored_on_both_suites() -> None:
    found = estimate(config(confirm={"seeds": 3}, compare_at=["steps"]), study_pace(), 50)
    assert [arm.trainings for arm in found.arms] == [3, 3]
    assert phases(found)["confirmation"] == pytest.approx(3 * 7.5 + 3 * 5)
    # 50 documents instead of 100: a student takes 1 s, the teacher 2.5 s.
    assert phases(found)["test scoring"] == pytest.approx(6 * 1 + 2.5 + 1)
    assert found.wall_seconds == pytest.approx(sum(phases(found).values()))


def test_at_equal_seconds_the_cheaper_winner_trains_for_as_long_as_the_dearer() -> None:
    measured = study_pace()
    found = estimate(config(confirm={"seeds": 3}), measured, 50)
    # As many tokens a step in both arms: nothing to do again. Of seconds, 4.5 against 2.
    assert [arm.trainings for arm in found.arms] == [3, 6]
    assert phases(found)["confirmation"] == pytest.approx(3 * 7.5 + 3 * 5 + 3 * (1 + 4.5 + 2))


def test_what_a_pruner_looks_at_costs_time_and_what_it_ends_saves_some() -> None:
    found = estimate(
        config(pruner={"type": "median", "at": [0.5], "documents": 25, "startup_trials": 2}),
        study_pace(),
        8,
    )
    # A quarter of the suite, once in every trial: half a second each.
    assert phases(found)["search"] == pytest.approx(4 * 8 + 4 * 5.5)
    # Of the trials 2 and 3 of each arm, the last is ended half way: 1 + 2.25 + 0.5 and 1 + 1 + 0.5.
    saved = (8 - 3.75) + (5.5 - 2.5)
    assert found.pruned_wall_seconds == pytest.approx(found.wall_seconds - saved)


def test_an_arm_without_a_search_is_not_pruned() -> None:
    arms = {"gkd": {"settings": {"lmbda": 1.0}}, "sft": {}}
    found = estimate(config(arms=arms, pruner="median"), study_pace(), 8)
    assert found.pruned_wall_seconds is None
    assert [arm.trials for arm in found.arms] == [1, 1]


def findings(measured: StudyTiming, **changes: Any) -> dict[str, tuple[str, str]]:
    study = config(**changes)
    found = time_findings(study, measured, estimate(study, measured, 8))
    return {row.what: (row.state, f"{row.detail}. {row.advice}") for row in found}


def test_the_time_is_told_with_what_it_goes_to() -> None:
    found = findings(study_pace())
    assert list(found) == ["time"]
    assert found["time"][1].startswith(
        "about 1 min 3 s on 1 worker (53 s to 1 min 13 s, by what is sampled), 0.018 device-hours:"
        " search 79 %, preparation 21 %"
    )


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
    found = findings(study_pace(), budget=budget)["budget"]
    assert found[0] == state
    assert told in found[1]


def test_trials_that_would_be_ended_for_being_slow_are_told() -> None:
    assert list(findings(study_pace(), compute={"trial_timeout": 10.5})) == ["time"]
    found = findings(study_pace(), compute={"trial_timeout": 9, "stall_timeout": 1.5})
    assert "too short for trials of gkd, which take up to 10 s" in found["trial timeout"][1]
    assert "too short for scoring, which takes 2.0 s" in found["stall timeout"][1]


def test_slow_training_is_told_with_what_helps_in_order() -> None:
    slow = {"gkd": 7.0, "device": "cuda:0"}
    training = {**adder_study()["training"], "gradient_accumulation_steps": 4}
    [advice] = [
        advice
        for what, (_, advice) in findings(study_pace(**slow), training=training).items()
        if what == "slow training"
    ]
    assert "gkd spends 60 % of a step on sampling, 20 % on the teacher" in advice
    places = [
        advice.index(text)
        for text in ("max_new_tokens (up to 8)", "per_device_train_batch", "flash_attention_2")
    ]
    assert places == sorted(places)
    assert "compile" not in advice, "the teacher is not what it waits for"
    assert "slow training" not in findings(study_pace()), "a few seconds"
