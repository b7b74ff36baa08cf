"""Pareto front of a search with several objectives."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.config.search import Objective
from sweeper.records import Record
from sweeper.records.study_record import TrialRecord


class FrontPoint(Record):
    """Trial on an arm's Pareto front."""

    trial: TrialRecord
    values: dict[Objective, float]


def pareto_front(
    scored: Sequence[tuple[TrialRecord, float]],
    objectives: Sequence[Objective],
    *,
    higher_is_better: bool,
) -> tuple[FrontPoint, ...]:
    """Return the trials that no other one equals in all objectives and beats in one.

    The best score comes first. Of trials in ascending number that are equal in all objectives the
    first is kept. Costs should be low.
    """
    points = [
        FrontPoint(trial=trial, values={name: _value(name, trial, score) for name in objectives})
        for trial, score in scored
    ]

    def losses(point: FrontPoint) -> tuple[float, ...]:
        turned = -1.0 if higher_is_better else 1.0
        return tuple(turned * v if k == "score" else v for k, v in point.values.items())

    front: list[FrontPoint] = []
    # In ascending order a point can only be beaten, or equalled, by one before it.
    for point in sorted(points, key=losses):
        mine = losses(point)
        if not any(all(a <= b for a, b in zip(losses(one), mine, strict=True)) for one in front):
            front.append(point)
    return tuple(sorted(front, key=lambda point: point.values["score"], reverse=higher_is_better))


def _value(name: Objective, trial: TrialRecord, score: float) -> float:
    if name == "score":
        return score
    assert trial.outcome is not None
    if name == "model_parameters":
        return float(trial.outcome.model_parameters or 0)
    return float(getattr(trial.outcome.cost, name))
