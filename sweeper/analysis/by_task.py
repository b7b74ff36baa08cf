"""Scores of the winners task by task: the parts of a test suite's score, and tasks of weight 0.

A description without a test: the primary comparisons are about the suite's score.
"""

from __future__ import annotations

from sweeper.records import Record, Scores, TaskScore
from sweeper.records.study_record import StudyRecord


class ArmOnTask(Record):
    """Result of an arm's winner on one task."""

    arm: str
    trial: int
    mean: float
    """Mean over the new seeds."""
    gap_closed: float | None
    """Share of the gap from the starting student to the teacher; None without a gap."""


class TaskResult(Record):
    """Results on one task of the test suite."""

    task: str
    metric: str
    higher_is_better: bool
    weight: float
    """Weight in the suite's score; 0 for a task that has no part in it."""
    documents: int
    teacher: float | None
    starting_student: float | None
    arms: tuple[ArmOnTask, ...]


def by_task(record: StudyRecord) -> tuple[TaskResult, ...]:
    """Collect teacher, start and winners (at equal steps) by task, if there are several tasks."""
    test = record.test
    if test is None or test.scores is None:
        return ()
    teacher, start = (
        [end.scores] if end and end.scores else [] for end in (test.teacher, test.starting_student)
    )
    finals = {arm.name: arm.finals for arm in record.arms}
    winners = {
        (arm.arm, arm.trial): [
            final.outcome.test_scores
            for final in finals[arm.arm]
            if (final.final.trial, final.final.at) == (arm.trial, "steps")
            and final.outcome
            and final.outcome.test_scores
        ]
        for arm in test.scores.arms
        if arm.at == "steps"
    }
    known = next((found[0].tasks for found in (*winners.values(), teacher) if found), ())
    if len(known) < 2:
        return ()
    return tuple(_result(task, teacher, start, winners) for task in known)


def _result(
    task: TaskScore,
    teacher: list[Scores],
    start: list[Scores],
    winners: dict[tuple[str, int], list[Scores]],
) -> TaskResult:
    ceiling, floor = _mean(task.task, teacher), _mean(task.task, start)
    arms = []
    for (arm, trial), scores in winners.items():
        mean = _mean(task.task, scores)
        if mean is None:
            continue
        gap = None
        if ceiling is not None and floor is not None and ceiling != floor:
            gap = (mean - floor) / (ceiling - floor)
        arms.append(ArmOnTask(arm=arm, trial=trial, mean=mean, gap_closed=gap))
    return TaskResult(
        task=task.task,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        weight=task.weight,
        documents=task.documents,
        teacher=ceiling,
        starting_student=floor,
        arms=tuple(arms),
    )


def _mean(task: str, scores: list[Scores]) -> float | None:
    found = [one.score for every in scores for one in every.tasks if one.task == task]
    return sum(found) / len(found) if found else None
