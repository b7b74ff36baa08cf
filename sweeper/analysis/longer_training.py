"""Whether training for longer would help: what a study measured that bears on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from sweeper.analysis.learning_curves import winner_runs
from sweeper.analysis.stats.crossed_effects import Documents, Matrix, estimate
from sweeper.analysis.stats.rank_tests import FEWEST_A_SIDE
from sweeper.analysis.stats.significance import p_value
from sweeper.analysis.verdict import Verdict
from sweeper.records import Record
from sweeper.records.study_record import ConfirmedWinner, StudyRecord


class LongerTraining(Record):
    """A winner that was trained for longer, against itself, on the test suite."""

    arm: str
    steps: int
    longer_steps: int
    gain: float
    """Of the score, with its sign turned where lower is better: positive is a gain."""
    interval: tuple[float, float]
    """95 %, of the gain."""
    seeds: int
    p: float
    """As the verdict's: two-sided, with seeds and documents crossed."""


class LateProgress(Record):
    """How far a winner still came nearer to the teacher at the end of its training."""

    arm: str
    start: int
    end: int
    """Between which steps: the last two at which it was measured."""
    fall: float
    """The share of the distance from the teacher that went, the mean over seeds."""
    seeds: int
    p: float
    """Of a t test over the seeds, two-sided, that it was nothing."""


def longer_training(record: StudyRecord, arms: Sequence[str]) -> LongerTraining | None:
    """What more steps gave the first of ``arms`` whose winner was also trained for longer."""
    scores = record.test.scores if record.test else None
    if scores is None:
        return None
    sign = 1.0 if scores.higher_is_better else -1.0
    documents = Documents.of_tasks(scores.tasks, scores.shares, scores.clusters)
    for name in arms:
        trained = [arm for arm in scores.arms if arm.arm == name]
        shorter = next((arm for arm in trained if arm.at == "steps"), None)
        longest = max(trained, key=lambda arm: arm.max_steps, default=None)
        if shorter is None or longest is None or longest.max_steps <= shorter.max_steps:
            continue
        seeds = [seed for seed in longest.seeds if seed in shorter.seeds]
        if seeds:
            gains = sign * (_rows(longest, seeds) - _rows(shorter, seeds))
            found = estimate(gains, documents, draws=0)
            return LongerTraining(
                arm=name,
                steps=shorter.max_steps,
                longer_steps=longest.max_steps,
                gain=found.mean,
                interval=(found.low, found.high),
                seeds=len(seeds),
                p=p_value(found),
            )
    return None


def late_progress(record: StudyRecord, arm: str, verdict: Verdict | None) -> LateProgress | None:
    """Whether the winner of ``arm`` was still coming nearer to the teacher when it was stopped.

    Only of trainings that are over. None without the yardstick, or with fewer than
    ``ranks.FEWEST_A_SIDE`` seeds.
    """
    winner = next((one for one in record.arms if one.name == arm), None)
    finals = winner_runs(winner, verdict) if winner else []
    ends: list[tuple[int, float, int, float]] = []
    for final in finals:
        points = [
            (point.step, point.teacher_divergence)
            for point in final.curve
            if point.teacher_divergence is not None
        ]
        if final.state == "completed" and len(points) > 1 and points[-2][1] > 0:
            ends.append((*points[-2], *points[-1]))
    if len(ends) < FEWEST_A_SIDE or len({(before, after) for before, _, after, _ in ends}) > 1:
        return None
    falls = [1 - after / before for _, before, _, after in ends]
    p = float(stats.ttest_1samp(falls, 0.0).pvalue) if len(set(falls)) > 1 else 1.0
    return LateProgress(
        arm=arm,
        start=ends[0][0],
        end=ends[0][2],
        fall=sum(falls) / len(falls),
        seeds=len(falls),
        p=p,
    )


def _rows(arm: ConfirmedWinner, seeds: Sequence[int]) -> Matrix:
    return np.array([arm.scores[arm.seeds.index(seed)] for seed in seeds], dtype=float)
