"""What a study's search taught of its settings, arm by arm: all that is fitted, fitted once."""

from __future__ import annotations

from sweeper.analysis.importance.effects import Effect, effects
from sweeper.analysis.importance.forest import fit_forests
from sweeper.analysis.importance.importance import Importance, parameter_importance
from sweeper.analysis.importance.ranges import ExhaustedRange, exhausted_ranges
from sweeper.records import Record
from sweeper.records.study_record import StudyRecord


class ArmLessons(Record):
    """What one arm's trials taught."""

    arm: str
    importance: Importance | None
    effects: tuple[Effect, ...]
    """Clear ones first."""
    exhausted: tuple[ExhaustedRange, ...]


class SearchLessons(Record):
    """What a study's trials taught; empty without enough of them."""

    arms: tuple[ArmLessons, ...]
    """In the study's order; only those that taught something."""


def search_lessons(record: StudyRecord) -> SearchLessons:
    """Everything about the settings that the search allows to say.

    Of a study with several objectives it is about the score. The same record gives the same
    numbers: all seeds follow from the study's.
    """
    seed = int(record.config.get("seed", 0))
    found = []
    for arm in record.arms:
        refits = fit_forests(arm, seed)
        seen = effects(refits, higher_is_better=record.higher_is_better)
        if not seen:
            continue
        found.append(
            ArmLessons(
                arm=arm.name,
                importance=parameter_importance(refits),
                effects=tuple(seen),
                exhausted=tuple(
                    exhausted_ranges(refits, seen, higher_is_better=record.higher_is_better)
                ),
            )
        )
    return SearchLessons(arms=tuple(found))
