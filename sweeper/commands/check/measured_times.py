"""Measured times of a probe's trials."""

from __future__ import annotations

from collections.abc import Sequence

from sweeper.analysis.timing import TrialTiming
from sweeper.config.base import Scalar
from sweeper.records import INTERIM_PHASE, Progress

_PARTS = ("rollout", "teacher", "student", "optimiser")


def timing_of_probe(
    rows: Sequence[Progress], submitted: float, documents: int, params: dict[str, Scalar]
) -> TrialTiming:
    """Return how long a trial would take that was ended at its first intermediate score.

    The first step is not counted: it has things to set up.

    Args:
        rows: Progress of the trial, with a point of the curve after every step.
        submitted: Time at which it was submitted, in seconds since the epoch.
        documents: Documents of the selection suite, including tasks of weight 0. Those that the
            trial was scored on stand for them.
        params: Settings that were chosen from its arm's search.
    """
    pause = next(row for row in rows if row.phase == INTERIM_PHASE)
    scored = next(row for row in rows if row.interim is not None)
    assert scored.interim is not None and scored.interim.scored is not None
    training = [row for row in rows if row.phase == "train"]
    last = pause.step or 0
    begin = [row for row in training if (row.step or 0) < min(2, last)][-1]
    first = begin.step or 0
    step = (pause.time - begin.time) / (last - first)
    points = [row for row in training if row.metrics and (row.step or 0) > first]
    lengths = [row.metrics["rollout_length"] for row in points if "rollout_length" in row.metrics]
    return TrialTiming(
        params=params,
        start=max(begin.time - submitted - first * step, 0.0),
        step=step,
        steps=pause.max_steps or 0,
        scoring=(scored.time - pause.time) * documents / scored.interim.scored,
        parts={
            part: sum(row.metrics.get(f"seconds_{part}", 0.0) for row in points) / len(points)
            for part in _PARTS
        },
        trained_tokens=points[-1].metrics["trained_tokens"] / (points[-1].step or 1),
        rollout_length=sum(lengths) / len(lengths) if lengths else None,
    )
