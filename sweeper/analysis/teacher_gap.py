"""Teacher gap: how much better the teacher is than the student that all arms start from.

Both answered the documents of the selection suite, so they are compared document by document.
Without a gap there is nothing to distil that the suite could show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from sweeper.analysis.stats.crossed_effects import Documents, Estimate, estimate
from sweeper.analysis.stats.significance import ALPHA, p_value
from sweeper.records import Scores
from sweeper.records.study_record import ScoredDocument, TeacherGap


def measure_teacher_gap(
    teacher: Scores,
    student: Scores,
    theirs: Sequence[ScoredDocument] = (),
    ours: Sequence[ScoredDocument] = (),
) -> TeacherGap:
    """Subtract the student's score from the teacher's: positive where the teacher is better.

    Documents are paired. Where there are no pairs, or the suite's score is not their mean, the two
    scores are taken as independent. ``theirs`` are the teacher's documents, ``ours`` the student's.
    """
    sign = 1.0 if teacher.higher_is_better else -1.0
    value = sign * (teacher.score - student.score)
    paired = _paired(theirs, ours, sign)
    if paired is not None and math.isclose(paired.mean, value, abs_tol=1e-9):
        low, high, stderr, p = paired.low, paired.high, paired.stderr, p_value(paired)
    else:
        paired = None
        stderr = math.hypot(teacher.stderr, student.stderr)
        reach = float(stats.norm.isf(ALPHA / 2)) * stderr
        low, high = value - reach, value + reach
        p = float(2 * stats.norm.sf(abs(value) / stderr)) if stderr > 0 else 1.0
    return TeacherGap(
        teacher=teacher.score,
        student=student.score,
        value=value,
        low=low,
        high=high,
        stderr=stderr,
        p=p,
        documents=sum(task.documents for task in teacher.tasks if task.weight),
        paired=paired is not None,
    )


def _paired(
    theirs: Sequence[ScoredDocument], ours: Sequence[ScoredDocument], sign: float
) -> Estimate | None:
    """Estimate the mean difference over documents that both answered; None without such."""
    if len(theirs) < 2 or not any(one.share for one in theirs):
        return None
    if [one.key for one in theirs] != [one.key for one in ours]:
        return None
    documents = Documents.of_tasks(
        [one.task for one in theirs],
        [abs(one.share) for one in theirs],
        [one.cluster for one in theirs],
    )
    pairs = zip(theirs, ours, strict=True)
    differences = np.array([[sign * (one.value - other.value) for one, other in pairs]])
    return estimate(differences, documents, draws=0)


def is_better(gap: TeacherGap) -> bool:
    """Return True if the teacher is shown to be better: two-sided, at 5 %."""
    return gap.value > 0 and gap.p <= ALPHA


def is_worse(gap: TeacherGap) -> bool:
    """Return True if the teacher is shown to be worse: two-sided, at 5 %."""
    return gap.value < 0 and gap.p <= ALPHA
