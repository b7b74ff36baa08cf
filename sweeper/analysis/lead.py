"""Whether the teacher is better than the student that all arms start from.

Both answered the documents of the selection suite, so they are compared document by document. Where
they are no better than each other there is nothing to distil that the suite could show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from sweeper.analysis.crossed import Documents, estimate
from sweeper.analysis.significance import ALPHA, p_value
from sweeper.records import Scores
from sweeper.study_record import Lead, ScoredDocument


def teacher_lead(
    teacher: Scores,
    student: Scores,
    theirs: Sequence[ScoredDocument] = (),
    ours: Sequence[ScoredDocument] = (),
) -> Lead:
    """The teacher's score minus the student's, positive where the teacher is better.

    Pairs of documents tell most. Where there are none, or the suite's score is not their mean, the
    two scores are taken as independent.

    Args:
        teacher: The teacher's scores on the selection suite.
        student: The starting student's.
        theirs: The teacher's documents.
        ours: The student's.
    """
    sign = 1.0 if teacher.higher_is_better else -1.0
    value = sign * (teacher.score - student.score)
    common = {
        "teacher": teacher.score,
        "student": student.score,
        "value": value,
        "documents": sum(task.documents for task in teacher.tasks),
    }
    pairs = [(one.value, other.value) for one, other in zip(theirs, ours, strict=False)]
    paired = len(pairs) > 1 and [d.key for d in theirs] == [d.key for d in ours]
    if paired:
        documents = Documents.of_tasks(
            [one.task for one in theirs],
            [abs(one.share) for one in theirs],
            [one.cluster for one in theirs],
        )
        differences = np.array([[sign * (one - other) for one, other in pairs]])
        found = estimate(differences, documents, draws=0)
        if math.isclose(found.mean, value, abs_tol=1e-9):
            return Lead(
                **common,
                low=found.low,
                high=found.high,
                stderr=found.stderr,
                p=p_value(found),
                paired=True,
            )
    stderr = math.hypot(teacher.stderr, student.stderr)
    reach = float(stats.norm.isf(ALPHA / 2)) * stderr
    return Lead(
        **common,
        low=value - reach,
        high=value + reach,
        stderr=stderr,
        p=float(2 * stats.norm.sf(abs(value) / stderr)) if stderr > 0 else 1.0,
        paired=False,
    )


def is_better(lead: Lead) -> bool:
    """Whether the teacher is shown to be better: two-sided, at 5 %."""
    return lead.value > 0 and lead.p <= ALPHA


def is_worse(lead: Lead) -> bool:
    """Whether it is shown to be worse."""
    return lead.value < 0 and lead.p <= ALPHA
