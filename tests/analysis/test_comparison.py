from __future__ import annotations

import json
import math

import pytest

from sweeper.analysis.comparison import SELECTION_NOTE, UNCONFIRMED_NOTE, as_json, compare
from sweeper.records import Cost, Outcome
from tests.support.example_study import (
    LR,
    arm,
    completed,
    example_study,
    failed,
    study,
    trial,
)


def test_the_best_trial_is_the_one_with_the_best_selection_score() -> None:
    record = study([arm("sft", [trial(0, completed(0.4)), trial(1, completed(0.6), lr=1.0)])])

    summary = compare(record).arm("sft")

    assert summary.best is not None
    assert summary.best.number == 1
    assert [point.best for point in summary.series] == [0.4, 0.6]


def test_of_equal_trials_the_lower_number_wins_in_whatever_order_they_are_recorded() -> None:
    trials = [trial(number, completed(0.5)) for number in (4, 2, 7)]

    best = compare(study([arm("sft", trials)])).arm("sft").best

    assert best is not None
    assert best.number == 2


def test_where_lower_is_better_the_lowest_score_wins_and_a_negative_difference_leads() -> None:
    record = study(
        [
            arm("gkd", [trial(0, completed(0.9)), trial(1, completed(0.7))]),
            arm("sft", [trial(0, completed(0.8)), trial(1, completed(1.2))]),
        ],
        teacher=0.5,
        student=1.5,
        higher_is_better=False,
    )

    comparison = compare(record)

    gkd = comparison.arm("gkd")
    assert comparison.leaders == ("gkd",)
    assert gkd.difference is not None
    assert gkd.difference.value == pytest.approx(-0.1)
    assert gkd.difference.lead == pytest.approx(0.1)
    assert gkd.gap_closed == pytest.approx(0.8)
    assert [point.best for point in comparison.arm("sft").series] == [0.8, 0.8]


def test_arms_with_the_same_score_share_the_lead() -> None:
    record = study(
        [
            arm("gkd", [trial(0, completed(1.0, stderr=0.0))]),
            arm("seqkd", [trial(0, completed(1.0, stderr=0.0))]),
        ]
    )

    comparison = compare(record)

    assert comparison.leaders == ("gkd", "seqkd")
    difference = comparison.arm("gkd").difference
    assert difference is not None
    assert difference.stderr == 0
    assert difference.standard_errors is None


def test_the_difference_is_to_the_best_offline_arm_with_unpaired_errors() -> None:
    record = study(
        [
            arm("gkd", [trial(0, completed(0.8, stderr=0.03))]),
            arm("sft", [trial(0, completed(0.5, stderr=0.01))]),
            arm("seqkd", [trial(0, completed(0.7, stderr=0.04))]),
        ]
    )

    comparison = compare(record)

    assert comparison.best_offline == "seqkd"
    assert comparison.arm("seqkd").difference is None
    difference = comparison.arm("gkd").difference
    assert difference is not None
    assert difference.reference == "seqkd"
    assert difference.stderr == pytest.approx(0.05)
    assert difference.standard_errors == pytest.approx(2.0)


def test_an_arm_whose_trials_all_failed_has_no_best_but_its_failures_and_its_cost() -> None:
    trials = [
        trial(0, failed("out_of_memory")),
        trial(1, failed("diverged")),
        trial(2, failed("diverged")),
    ]
    record = study([arm("gkd", trials), arm("sft", [trial(0, completed(0.5))])])

    comparison = compare(record)

    gkd = comparison.arm("gkd")
    assert gkd.best is None
    assert gkd.failures == {"out_of_memory": 1, "diverged": 2}
    assert gkd.cost.device_seconds == 12.0
    assert comparison.best_gkd is None
    assert as_json(comparison)["arms"]["gkd"]["best"] is None


def test_a_score_that_is_not_finite_never_wins_and_never_reaches_the_json() -> None:
    record = study(
        [
            arm(
                "sft",
                [
                    trial(0, completed(math.nan)),
                    trial(1, completed(math.inf)),
                    trial(2, completed(0.4, stderr=math.nan, seconds=math.nan)),
                ],
            ),
            arm("gkd", [trial(0, completed(0.5))]),
        ]
    )

    comparison = compare(record)
    text = json.dumps(as_json(comparison), allow_nan=False)

    best = json.loads(text)["arms"]["sft"]["best"]
    assert best["number"] == 2
    assert best["selection"] == {"score": 0.4, "stderr": None}
    assert best["cost"]["device_seconds"] is None


def test_the_json_holds_what_scripts_read() -> None:
    content = as_json(compare(example_study()))

    assert content["schema_version"] == 1
    assert content["study"] == "adder"
    assert set(content["arms"]) == {"gkd", "gkd-default", "sft", "seqkd", "supervised_kd"}
    gkd = content["arms"]["gkd"]
    assert (gkd["method"], gkd["budget"]) == ("gkd", 12)
    assert gkd["trials"] == {
        "completed": 10,
        "pruned": 0,
        "failed": 1,
        "running": 1,
        "waiting": 0,
    }
    assert set(gkd["best"]) == {"number", "params", "selection", "cost"}
    assert set(gkd["best"]["selection"]) == {"score", "stderr"}
    assert set(gkd["best"]["cost"]) == {
        "steps",
        "trained_tokens",
        "generated_tokens",
        "device_seconds",
    }
    assert content["teacher"] == {"score": 0.938, "stderr": 0.011}
    assert content["starting_student"] == {"score": 0.312, "stderr": 0.021}
    assert f"{SELECTION_NOTE} {UNCONFIRMED_NOTE}" in content["notes"]


def test_without_a_teacher_there_is_no_gap() -> None:
    comparison = compare(study([arm("sft", [trial(0, completed(0.5))])], teacher=None))

    assert comparison.teacher is None
    assert comparison.arm("sft").gap_closed is None
    assert as_json(comparison)["teacher"] is None


def test_a_teacher_that_is_no_better_than_the_start_leaves_no_gap() -> None:
    record = study([arm("sft", [trial(0, completed(0.5))])], teacher=0.4, student=0.4)

    assert compare(record).arm("sft").gap_closed is None


@pytest.mark.parametrize(
    ("budgets", "unequal"),
    [((12, 12), False), ((12, 6), True), ((12, 1), False)],
    ids=["equal", "unequal", "one trial without a search"],
)
def test_only_arms_with_something_to_search_need_equal_budgets(
    budgets: tuple[int, int], unequal: bool
) -> None:
    first, second = budgets
    record = study(
        [
            arm("gkd", [], budget=first, search={"learning_rate": LR}),
            arm("sft", [], budget=second, search={} if second == 1 else {"learning_rate": LR}),
        ]
    )

    assert compare(record).unequal_budgets is unequal


def test_scores_from_two_versions_of_the_suite_are_noticed() -> None:
    changed = completed(0.5)
    assert changed.scores is not None
    changed = changed.model_copy(
        update={"scores": changed.scores.model_copy(update={"suite_hash": "other"})}
    )

    assert compare(study([arm("sft", [trial(0, changed)])])).several_suites
    assert not compare(example_study()).several_suites


def test_a_study_that_has_not_begun_compares_to_nothing() -> None:
    comparison = compare(study([arm("gkd", []), arm("sft", [])], teacher=None, student=None))

    assert comparison.leaders == ()
    assert comparison.suite is None
    json.dumps(as_json(comparison), allow_nan=False)


def test_the_preparation_costs_what_all_its_steps_took() -> None:
    took = {
        name: Outcome(state="completed", started=0, finished=1, cost=Cost(device_seconds=seconds))
        for name, seconds in (("teacher", 10.0), ("answers", 200.0), ("starting_student", 3000.0))
    }
    record = study([arm("sft", [trial(0, completed(0.4))])])
    for names in (("teacher", "starting_student"), tuple(took)):
        made = record.model_copy(update={name: took[name] for name in names})
        spent = sum(took[name].cost.device_seconds for name in names)
        assert compare(made).preparation_cost.device_seconds == spent
