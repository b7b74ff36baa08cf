"""Lessons of a search on its settings, arm by arm; forests are fitted once."""

from __future__ import annotations

from sweeper.analysis.importance.effects import Effect, effects
from sweeper.analysis.importance.forest import fit_forests
from sweeper.analysis.importance.importance import Importance, parameter_importance
from sweeper.analysis.importance.ranges import ExhaustedRange, exhausted_ranges
from sweeper.records import Record
from sweeper.records.study_record import StudyRecord


class ArmLessons(Record):
    """Lessons of one arm's trials."""

    arm: str
    importance: Importance | None
    effects: tuple[Effect, ...]
    """Effects of the settings, clear ones first."""
    exhausted: tuple[ExhaustedRange, ...]


class SearchLessons(Record):
    """Lessons of a study's trials; empty without enough of them."""

    arms: tuple[ArmLessons, ...]
    """Arms with lessons, in the study's order."""


def search_lessons(record: StudyRecord) -> SearchLessons:
    """Draw the lessons of a search on its settings.

    With several objectives they are about the score. The same record gives the same numbers: all
    seeds follow from the study's.
    """
    seed = int(record.config.get("seed", 0))
    lessons = []
    for arm in record.arms:
        refits = fit_forests(arm, seed)
        seen = effects(refits, higher_is_better=record.higher_is_better)
        if not seen:
            continue
        exhausted = exhausted_ranges(refits, seen, higher_is_better=record.higher_is_better)
        lessons.append(
            ArmLessons(
                arm=arm.name,
                importance=parameter_importance(refits),
                effects=tuple(seen),
                exhausted=tuple(exhausted),
            )
        )
    return SearchLessons(arms=tuple(lessons))
