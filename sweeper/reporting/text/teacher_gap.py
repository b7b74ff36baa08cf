"""The teacher gap in words, for checks, reports and live messages alike."""

from __future__ import annotations

from sweeper.analysis.comparison import Comparison
from sweeper.analysis.teacher_gap import is_better, is_worse
from sweeper.records.study_record import TeacherGap


def teacher_gap_sentence(gap: TeacherGap, arm: str = "") -> str:
    """Return by how much a teacher is better than the starting student, with the interval.

    The teacher is the study's, or that of an ``arm`` with its own.
    """
    who = f"The teacher of {arm}" if arm else "The teacher"
    better = is_better(gap)
    relation = "measurably better" if better else "worse"
    if not better and not is_worse(gap):
        relation = "not measurably better"
    doubt = "" if better or arm else " This suite may be unable to show any gain from distillation."
    return (
        f"{who} is {relation} than the starting student on the selection suite"
        f" ({gap.teacher:.3f} against {gap.student:.3f}, {gap.value:+.3f}, 95 % interval"
        f" {gap.low:+.3f} to {gap.high:+.3f}, {gap.documents:,} documents).{doubt}"
    )


def teacher_gap_warnings(comparison: Comparison) -> list[str]:
    """Return what is wrong with the gap of each teacher; nothing where scores are missing."""
    own = {arm.name: arm.lead for arm in comparison.arms if arm.lead is not None}
    found = [_warning(comparison)]
    found += [teacher_gap_sentence(gap, name) for name, gap in own.items() if not is_better(gap)]
    return list(filter(None, found))


def _warning(comparison: Comparison) -> str:
    if comparison.lead is not None:
        return "" if is_better(comparison.lead) else teacher_gap_sentence(comparison.lead)
    teacher, student = comparison.teacher, comparison.starting_student
    if teacher is None or student is None:
        return ""
    gap = (teacher.score - student.score) * (1 if comparison.higher_is_better else -1)
    if gap > 0:
        return ""
    return "The teacher is no better than the starting student: there is no gap to close."
