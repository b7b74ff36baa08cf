"""Matched conditions: what the arms' trainings had in common, read from their records.

The arms' winners should start from the same student, see the same prompts and teacher, take the
same steps with the same seeds, and come from searches with the same budget. Their costs then
differ, because on-policy sequences must be sampled. Where the study also compares at equal cost,
the rows show how equal the costs were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from sweeper.analysis.scoring_dtype import UNDECLARED, scoring_dtype
from sweeper.config.confirm import CostMeasure
from sweeper.records import Record
from sweeper.records.study_record import ArmRecord, ConfirmedWinner, StudyRecord

TOLERANCE = 0.05
"""Relative difference below which costs are equal: seconds are not measured more precisely."""

Value = int | float | str


class ConditionRow(Record):
    """Condition that the arms should have in common."""

    what: str
    state: Literal["equal", "close", "differs"]
    """State of the condition; ``close`` is within ``TOLERANCE``."""
    values: dict[str, Value]
    """Values by arm."""
    unit: str = ""
    at: CostMeasure = "steps"
    """Measure of cost of the comparison that the row is about."""


def matched_conditions(record: StudyRecord, claimed: Iterable[str]) -> tuple[ConditionRow, ...]:
    """List the conditions of the retrained winners; at equal cost of the ``claimed`` arms."""
    if record.test is None or record.test.scores is None:
        return ()
    finals = record.test.scores.arms
    own = {arm.arm: arm for arm in finals if arm.at == "steps"}
    all_in = scoring_dtype(record) or UNDECLARED
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
        row("scored in", lambda arm: _common(f.scored_in or all_in for f in arm.footings)),
        row("new seeds", lambda arm: len(arm.seeds)),
        _budget(record.arms),
        _given(record.arms),
        row("trained tokens", lambda arm: arm.trained_tokens),
        _row("device-seconds of training", _seconds(own.values()), "s"),
    ]
    names = [name for name in own if name in set(claimed)]
    for at in dict.fromkeys(arm.at for arm in finals if arm.at != "steps"):
        longer = own | {arm.arm: arm for arm in finals if arm.at == at}
        cost, unit = _COSTS[at]
        values: dict[str, Value] = {name: cost(longer[name]) for name in names}
        if at == "device_seconds":
            values = _seconds(longer[name] for name in names)
        rows.append(_row(f"at equal {at.replace('_', ' ')}", values, unit, at))
    return tuple(row for row in rows if row.values)


_COSTS: Mapping[str, tuple[Callable[[ConfirmedWinner], float], str]] = {
    "tokens": (lambda arm: arm.trained_tokens, ""),
    "device_seconds": (lambda arm: arm.training_seconds, "s"),
}


def _seconds(arms: Iterable[ConfirmedWinner]) -> dict[str, Value]:
    """Return the seconds of trainings that no other job on their GPU made longer."""
    return {arm.arm: arm.training_seconds for arm in arms if arm.sharing == 1}


def _budget(arms: Iterable[ArmRecord]) -> ConditionRow:
    """Count the trials of each arm; an arm with nothing to search needs only one."""
    ended = {
        arm.name: sum(trial.outcome is not None for trial in arm.trials)
        for arm in arms
        if arm.search or arm.budget > 1
    }
    return _row("trials of the search", dict(ended))


def _given(arms: Iterable[ArmRecord]) -> ConditionRow:
    """Count the trials of each search that ``start_with`` gave settings; no values if none did."""
    given = {
        arm.name: sum(trial.enqueued is not None for trial in arm.trials)
        for arm in arms
        if arm.search
    }
    return _row("given settings", dict(given) if any(given.values()) else {})


def _row(
    what: str, values: dict[str, Value], unit: str = "", at: CostMeasure = "steps"
) -> ConditionRow:
    state: Literal["equal", "close", "differs"] = "differs"
    numbers = [value for value in values.values() if not isinstance(value, str)]
    if len(set(values.values())) <= 1:
        state = "equal"
    elif len(numbers) == len(values) and max(numbers) <= min(numbers) * (1 + TOLERANCE):
        state = "close"
    return ConditionRow(what=what, state=state, values=values, unit=unit, at=at)


def _common(values: Iterable[str]) -> str:
    """Return the value that all trainings of an arm share, or all their values."""
    return ", ".join(dict.fromkeys(values))
