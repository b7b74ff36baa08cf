"""Which winners are trained again, and what a changed study does to a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.analysis.server_costs import Share, charge
from sweeper.config.study import StudyConfig
from sweeper.foundation.errors import ConfigError
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import StudyRecord
from sweeper.study.confirmation import open_plan
from sweeper.study.final_scores import read_plan
from tests.support.searched_arms import SEARCHED, record, trial
from tests.support.tiny_studies import adder_study


def config(**confirm: Any) -> StudyConfig:
    changes = {"compare_at": confirm.pop("compare_at", ["steps"])}
    changes["compare"] = confirm.pop("compare", None)
    study = adder_study(confirm={"seeds": 2, **confirm}, **changes)
    return StudyConfig.model_validate(study)


def open_in(tmp_path: Path, config: StudyConfig, record: StudyRecord) -> Any:
    paths = StudyPaths(tmp_path, "tiny")
    paths.directory.mkdir(exist_ok=True)
    return open_plan(config.confirm, config.compare_at, record, "hash", paths, config.compare)


def shown(plan: Any) -> list[tuple[str, int, int, str, int]]:
    return [
        (f.arm, f.trial, f.seed, f.at, f.max_steps)
        for arm, numbers in plan.current.items()
        for f in (plan.finals[arm][number] for number in numbers)
    ]


def test_the_best_of_each_arm_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    plan = open_in(tmp_path, config(), SEARCHED)
    assert shown(plan) == [
        ("gkd", 1, 0, "steps", 20),
        ("gkd", 1, 1, "steps", 20),
        ("sft", 0, 0, "steps", 20),
        ("sft", 0, 1, "steps", 20),
    ]


def test_several_of_each_as_far_as_there_are(tmp_path: Path) -> None:
    plan = open_in(tmp_path, config(top_k=2, seeds=1), SEARCHED)
    assert [final[:2] for final in shown(plan)] == [("gkd", 1), ("gkd", 2), ("sft", 0)]


def test_cheaper_arms_train_longer_for_the_same_cost(tmp_path: Path) -> None:
    searched = record([trial(0, 0.5, tokens=300)], [trial(0, 0.4, tokens=100)])
    measures = ["steps", "tokens", "device_seconds"]
    plan = open_in(tmp_path, config(seeds=1, compare_at=measures), searched)
    assert [final[3:] for final in shown(plan) if final[0] == "sft"] == [
        ("steps", 20),
        ("tokens", 60),
        ("device_seconds", 60),
    ]
    assert [final[3:] for final in shown(plan) if final[0] == "gkd"] == [("steps", 20)]


def test_no_arm_trains_for_seconds_that_were_measured_on_a_shared_gpu(tmp_path: Path) -> None:
    measures = ["steps", "tokens", "device_seconds"]
    slow, fast = trial(0, 0.5, tokens=300), trial(0, 0.4, tokens=100)
    for name, trials in (("slow", (slow,)), ("fast", (fast,)), ("both", (slow, fast))):
        shared = [_shared(each) if each in trials else each for each in (slow, fast)]
        (tmp_path / name).mkdir()
        searched = record([shared[0]], [shared[1]])
        plan = open_in(tmp_path / name, config(seeds=1, compare_at=measures), searched)
        at = [final[3] for final in shown(plan) if final[0] == "sft"]
        assert at == ["steps", "tokens"], name


def _shared(trial: Any) -> Any:
    outcome = trial.outcome.model_copy(update={"sharing": 2})
    return trial.model_copy(update={"outcome": outcome})


def test_a_trial_that_pays_for_a_server_leaves_others_more_steps(tmp_path: Path) -> None:
    taught = trial(0, 0.5)
    assert taught.outcome is not None
    # Its training takes 10 s, and 20 s of the server; that one's start does not grow with steps.
    outcome = charge(taught.outcome, {"teacher": Share(used=20.0, idle=300.0)})
    searched = record([taught.model_copy(update={"outcome": outcome})], [trial(0, 0.4)])
    plan = open_in(tmp_path, config(seeds=1, compare_at=["steps", "device_seconds"]), searched)
    assert [final[3:] for final in shown(plan) if final[0] == "sft"] == [
        ("steps", 20),
        ("device_seconds", 60),
    ]


def test_what_costs_the_same_or_is_not_claimed_is_not_trained_longer(tmp_path: Path) -> None:
    nearly = record([trial(0, 0.5, tokens=104)], [trial(0, 0.4, tokens=100)])
    assert {final[3] for final in shown(open_in(tmp_path, tokens(), nearly))} == {"steps"}
    # Of two GKD arms the claim is about the better one.
    arms = record([trial(0, 0.5, tokens=300)], [trial(0, 0.4, tokens=100)]).arms
    third = arms[0].model_copy(update={"name": "default", "trials": (trial(0, 0.3, tokens=50),)})
    searched = SEARCHED.model_copy(update={"arms": (*arms, third)})
    plan = open_in(tmp_path, tokens(default={"method": "gkd"}), searched)
    assert [final[0] for final in shown(plan) if final[3] == "tokens"] == ["sft"]


def tokens(**arms: Any) -> StudyConfig:
    """A study that compares at equal tokens as well."""
    study = adder_study(confirm={"seeds": 1}, compare_at=["steps", "tokens"])
    study["arms"] |= arms
    return StudyConfig.model_validate(study)


def test_an_arm_without_a_score_has_no_winner(tmp_path: Path) -> None:
    plan = open_in(tmp_path, config(), record([trial(0, 0.5)], [trial(0, None)]))
    assert list(plan.current) == ["gkd"]


def test_the_same_study_keeps_its_plan(tmp_path: Path) -> None:
    first = open_in(tmp_path, config(), SEARCHED)
    assert open_in(tmp_path, config(), SEARCHED) == first


def test_more_seeds_keep_what_was_trained_and_are_another_look(tmp_path: Path) -> None:
    first = open_in(tmp_path, config(), SEARCHED)
    more = open_in(tmp_path, config(seeds=3), SEARCHED)
    assert more.finals["gkd"][:2] == first.finals["gkd"]
    assert more.current["gkd"] == (0, 1, 2)
    assert (first.looks, more.looks) == (1, 2)


def test_another_winner_gets_numbers_of_its_own(tmp_path: Path) -> None:
    open_in(tmp_path, config(), SEARCHED)
    later = record([trial(0, 0.3), trial(1, 0.5), trial(3, 0.9)], [trial(0, 0.4)])
    plan = open_in(tmp_path, config(), later)
    assert plan.current == {"gkd": (2, 3), "sft": (0, 1)}
    assert plan.looks == 2


def test_other_comparisons_are_another_look_and_exploratory(tmp_path: Path) -> None:
    first = open_in(tmp_path, config(compare=[["gkd", "sft"]]), SEARCHED)
    assert (first.compare, first.looks, first.revised) == ((("gkd", "sft"),), 1, False)
    turned = open_in(tmp_path, config(compare=[["sft", "gkd"]]), SEARCHED)
    assert (turned.compare, turned.looks, turned.revised) == ((("sft", "gkd"),), 1, False)
    more = open_in(tmp_path, config(compare=[["sft", "gkd"], ["gkd", "start"]]), SEARCHED)
    assert (more.looks, more.revised) == (2, True)
    again = open_in(tmp_path, config(compare=[["sft", "gkd"]], seeds=3), SEARCHED)
    assert (again.looks, again.revised) == (3, True)
    none = open_in(tmp_path, config(), SEARCHED)
    assert (none.compare, none.looks, none.revised) == (None, 4, True)


def test_only_arms_that_are_compared_with_arms_are_trained_longer(tmp_path: Path) -> None:
    searched = record([trial(0, 0.5, tokens=300)], [trial(0, 0.4, tokens=100)])
    study = adder_study(confirm={"seeds": 1}, compare_at=["steps", "tokens"])
    for pairs, longer in (([["gkd", "sft"]], ["sft"]), ([["gkd", "start"]], [])):
        found = StudyConfig.model_validate({**study, "compare": pairs})
        plan = open_in(tmp_path, found, searched)
        assert [final[0] for final in shown(plan) if final[3] == "tokens"] == longer


def test_a_damaged_plan_is_told(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "tiny")
    open_in(tmp_path, config(), SEARCHED)
    paths.plan.write_text(paths.plan.read_text()[:40])
    with pytest.raises(ConfigError, match=r"plan\.json.*found something else or only a part"):
        read_plan(paths)
