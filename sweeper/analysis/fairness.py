"""Whether the arms were compared on an equal footing: checked in what their trainings were told.

The arms' winners should start from the same student, see the same prompts and teacher, take the
same steps with the same seeds, and have been looked for with the same budget. What they cost then
differs: on-policy sequences must be sampled. Where the study also compares at equal cost, this says
how equal it came out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from sweeper.config.confirm import CostMeasure
from sweeper.records import Record
from sweeper.records.study_record import ArmRecord, ConfirmedWinner, StudyRecord

TOLERANCE = 0.05
"""Costs that differ by less are equal: seconds are not measured better, and nothing would be learnt
from training again."""

Value = int | float | str


class ConditionRow(Record):
    """One thing that the arms should have in common."""

    what: str
    state: Literal["equal", "close", "differs"]
    """``close``: within ``TOLERANCE``."""
    values: dict[str, Value]
    """By arm."""
    unit: str = ""
    at: CostMeasure = "steps"
    """The comparison that the row is about."""


def matched_conditions(record: StudyRecord, claimed: Iterable[str]) -> tuple[ConditionRow, ...]:
    """What the winners that were trained again have in common, and what not.

    Args:
        record: The study.
        claimed: The arms that are compared at equal cost; see ``verdict.claim``.
    """
    if record.test is None or record.test.scores is None:
        return ()
    finals = record.test.scores.arms
    own = {arm.arm: arm for arm in finals if arm.at == "steps"}
    if len(own) < 2:
        return ()

    def row(what: str, value: Callable[[ConfirmedWinner], Value], unit: str = "") -> ConditionRow:
        return _row(what, {name: value(arm) for name, arm in own.items()}, unit)

    rows = [
        row("starting student", lambda arm: _common(footing.start for footing in arm.footings)),
        row("prompts", lambda arm: _common(footing.prompts for footing in arm.footings)),
        row("teacher", lambda arm: _common(footing.teacher for footing in arm.footings)),
        row("optimiser steps", lambda arm: arm.max_steps),
        row("sequences a step", lambda arm: _common(str(f.sequences) for f in arm.footings)),
        row("new seeds", lambda arm: len(arm.seeds)),
        _budget(record.arms),
        row("trained tokens", lambda arm: arm.trained_tokens),
        row("device-seconds of training", lambda arm: arm.training_seconds, "s"),
    ]
    names = [name for name in own if name in set(claimed)]
    for at in dict.fromkeys(arm.at for arm in finals if arm.at != "steps"):
        longer = own | {arm.arm: arm for arm in finals if arm.at == at}
        cost = _COST[at]
        values: dict[str, Value] = {name: cost(longer[name]) for name in names}
        found = _row(f"at equal {at.replace('_', ' ')}", values, _UNITS[at])
        rows.append(found.model_copy(update={"at": at}))
    return tuple(row for row in rows if row.values)


_COST: Mapping[str, Callable[[ConfirmedWinner], float]] = {
    "tokens": lambda arm: arm.trained_tokens,
    "device_seconds": lambda arm: arm.training_seconds,
}
_UNITS: Mapping[str, str] = {"tokens": "", "device_seconds": "s"}


def _budget(arms: Iterable[ArmRecord]) -> ConditionRow:
    """An arm with nothing to search needs one trial: that is no smaller chance."""
    ended = {
        arm.name: sum(trial.outcome is not None for trial in arm.trials)
        for arm in arms
        if arm.search or arm.budget > 1
    }
    return _row("trials of the search", dict(ended), "")


def _row(what: str, values: dict[str, Value], unit: str) -> ConditionRow:
    state: Literal["equal", "close", "differs"] = "differs"
    numbers = [value for value in values.values() if not isinstance(value, str)]
    if len(set(values.values())) <= 1:
        state = "equal"
    elif len(numbers) == len(values) and max(numbers) <= min(numbers) * (1 + TOLERANCE):
        state = "close"
    return ConditionRow(what=what, state=state, values=values, unit=unit)


def _common(values: Iterable[str]) -> str:
    """The one value of all trainings of an arm, or all of them."""
    return ", ".join(dict.fromkeys(values))
