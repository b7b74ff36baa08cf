"""The teacher's lead over the student that all arms start from."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sweeper.analysis.teacher_gap import is_better, is_worse, measure_teacher_gap
from sweeper.records import Scores, TaskScore
from sweeper.records.study_record import ScoredDocument


def scores(values: Sequence[float], *, higher: bool = True, score: float | None = None) -> Scores:
    mean = sum(values) / len(values)
    task = TaskScore(
        task="t",
        metric="m",
        score=mean,
        stderr=0.1,
        documents=len(values),
        higher_is_better=higher,
        weight=1.0,
    )
    return Scores(
        suite="s",
        suite_hash="h",
        score=mean if score is None else score,
        stderr=0.1,
        higher_is_better=higher,
        tasks=(task,),
        seconds=1.0,
    )


def documents(values: Sequence[float], task: str = "t") -> list[ScoredDocument]:
    share = 1 / len(values)
    return [ScoredDocument(task, i, f"h{i}", f"h{i}", share, v) for i, v in enumerate(values)]


HARD = [0.0] * 20 + [1.0] * 20
"""What both models find hard, or easy: it says nothing of their difference."""
BETTER = [1.0] * 6 + HARD[6:]


def test_pairs_tell_a_lead_that_two_independent_scores_do_not() -> None:
    lead = measure_teacher_gap(scores(BETTER), scores(HARD), documents(BETTER), documents(HARD))
    assert lead.paired and is_better(lead) and lead.low > 0
    assert lead.value == pytest.approx(0.15)
    alone = measure_teacher_gap(scores(BETTER), scores(HARD))
    assert not alone.paired and not is_better(alone)
    assert (alone.value, alone.documents) == (pytest.approx(0.15), 40)


def test_where_lower_is_better_the_teacher_leads_with_the_lower_score() -> None:
    low, high = scores(HARD, higher=False), scores(BETTER, higher=False)
    lead = measure_teacher_gap(low, high, documents(HARD), documents(BETTER))
    assert is_better(lead) and lead.value == pytest.approx(0.15)
    assert is_worse(measure_teacher_gap(high, low, documents(BETTER), documents(HARD)))


def test_documents_that_the_score_leaves_out_are_not_counted() -> None:
    both = scores(BETTER)
    other = both.tasks[0].model_copy(update={"task": "u", "weight": 0.0})
    teacher = both.model_copy(update={"tasks": (*both.tasks, other)})
    assert measure_teacher_gap(teacher, scores(HARD)).documents == 40


def test_the_same_answers_show_nothing() -> None:
    lead = measure_teacher_gap(scores(HARD), scores(HARD), documents(HARD), documents(HARD))
    assert (lead.value, lead.p) == (0, 1)
    assert not is_better(lead) and not is_worse(lead)


def test_pairs_are_not_used_where_they_are_none() -> None:
    """Other documents, or a score that is not the documents' mean (the worst task's)."""
    others = documents(HARD, "u")
    assert not measure_teacher_gap(scores(BETTER), scores(HARD), documents(BETTER), others).paired
    worst = measure_teacher_gap(
        scores(BETTER, score=0.2), scores(HARD), documents(BETTER), documents(HARD)
    )
    assert not worst.paired and worst.value == pytest.approx(-0.3)
