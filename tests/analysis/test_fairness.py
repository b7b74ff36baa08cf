"""What is told of how fair a comparison is."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from sweeper.analysis.fairness import ConditionRow, matched_conditions
from sweeper.records import EnqueuedSettings
from sweeper.records.study_record import (
    ArmRecord,
    Confirmation,
    ConfirmedWinner,
    MatchedConditions,
    Plan,
)
from sweeper.reporting.tables.fairness import condition_cells, conditions_note, conditions_view
from tests.support.confirmation_scores import GKD, SFT, scores, winner
from tests.support.searched_arms import SEARCHED

PLAN = Plan(suite_hash="h", declared=0.0, finals={}, current={})
FOOTING = MatchedConditions(start="a", prompts="b", teacher="c", sequences=32)
COSTS = {"trained_tokens": 1000.0, "training_seconds": 10.0, "footings": (FOOTING,)}


def rows(*arms: ConfirmedWinner) -> dict[str, ConditionRow]:
    record = SEARCHED.model_copy(update={"test": Confirmation(plan=PLAN, scores=scores(*arms))})
    return {row.what: row for row in matched_conditions(record, ("gkd", "sft"))}


def arm(base: ConfirmedWinner, **changes: Any) -> ConfirmedWinner:
    return base.model_copy(update={**COSTS, **changes})


def test_what_is_the_same_is_equal_and_what_is_nearly_so_is_close() -> None:
    found = rows(arm(GKD), arm(SFT, trained_tokens=1040.0, training_seconds=4.0))
    assert {what: row.state for what, row in found.items()} == {
        "starting student": "equal",
        "prompts": "equal",
        "teacher": "equal",
        "optimiser steps": "equal",
        "sequences a step": "equal",
        "scored in": "equal",
        "new seeds": "equal",
        "trials of the search": "differs",
        "trained tokens": "close",
        "device-seconds of training": "differs",
    }
    cells = {what: (state, values) for what, state, values in condition_cells(found.values())}
    assert cells["trained tokens"] == ("within 4.0 %", "1.0k")
    assert cells["trials of the search"] == ("differs", "gkd 3 · sft 2")
    assert cells["device-seconds of training"] == ("differs", "gkd 10 · sft 4.0")
    assert "compare_at: [steps, device_seconds]" in (conditions_note(found.values()) or "")


def test_what_only_one_search_was_given_differs() -> None:
    given = EnqueuedSettings(settings={"beta": 0.5})
    gkd, sft = (arm.model_copy(update={"search": {"beta": {}}}) for arm in SEARCHED.arms)
    for arms, state in (((gkd, sft), None), ((_given(gkd, given), sft), "differs")):
        record = SEARCHED.model_copy(
            update={
                "arms": arms,
                "test": Confirmation(plan=PLAN, scores=scores(arm(GKD), arm(SFT))),
            }
        )
        row = {row.what: row for row in matched_conditions(record, ())}.get("given settings")
        assert (row and row.state) == state
        assert row is None or row.values == {"gkd": 1, "sft": 0}


def _given(arm: ArmRecord, given: EnqueuedSettings) -> ArmRecord:
    first, *others = arm.trials
    return arm.model_copy(
        update={"trials": (first.model_copy(update={"enqueued": given}), *others)}
    )


def test_another_start_or_another_batch_is_seen() -> None:
    other = FOOTING.model_copy(update={"start": "x", "sequences": 16})
    found = rows(arm(GKD), arm(SFT, footings=(other,)))
    assert found["starting student"].state == "differs"
    assert found["sequences a step"].values == {"gkd": "32", "sft": "16"}
    # One of an arm's trainings that ran out of memory, say, and went on otherwise.
    found = rows(arm(GKD), arm(SFT, footings=(FOOTING, other)))
    assert found["sequences a step"].values == {"gkd": "32", "sft": "32, 16"}


def test_how_equal_the_cost_came_out_that_was_meant_to_be() -> None:
    longer = arm(winner("sft", "sft", 0.4, of=3, at="device_seconds"), training_seconds=9.8)
    alone = arm(winner("other", "gkd", 0.4, of=4))
    found = rows(arm(GKD), arm(SFT, training_seconds=4.0), longer, alone)
    row = found["at equal device seconds"]
    assert (row.state, row.at) == ("close", "device_seconds")
    assert row.values == {"gkd": 10.0, "sft": 9.8}
    assert conditions_note(found.values()) is None


def test_seconds_on_a_gpu_that_others_used_too_are_no_measure() -> None:
    longer = arm(winner("sft", "sft", 0.4, of=3, at="device_seconds"), sharing=2)
    found = rows(arm(GKD, sharing=2), arm(SFT, training_seconds=4.0, sharing=2), longer)
    assert not {"at equal device seconds", "device-seconds of training"} & set(found)
    assert conditions_note(found.values()) is None


def test_there_is_nothing_to_tell_of_one_arm() -> None:
    assert rows(arm(GKD)) == {}


def test_the_table_fits_into_a_terminal() -> None:
    found = rows(arm(GKD), arm(SFT, trained_tokens=4000.0))
    console = Console(width=60, record=True, file=None)
    console.print(conditions_view(list(found.values())))
    assert "trained tokens" in console.export_text()
