"""What MLflow keeps as metrics: values with their step and time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sweeper.analysis.pair import pair_values
from sweeper.records import Outcome, Progress, Scores
from sweeper.records.study_record import StudyRecord
from sweeper.tracking.mapping import Role, valid_key


class MetricPoint(NamedTuple):
    """One value of a metric; logging an equal one again changes nothing."""

    key: str
    value: float
    step: int
    timestamp: int
    """Milliseconds since the epoch."""


def curve_points(rows: Iterable[Progress]) -> list[MetricPoint]:
    """Return the points of a training curve, with the worker's own times."""
    return [
        MetricPoint(key, value, row.step or 0, _milliseconds(row.time))
        for row in rows
        for key, value in _curve_values(row).items()
    ]


def _curve_values(row: Progress) -> dict[str, float]:
    values = {_curve_key(name): value for name, value in row.metrics.items()}
    return values | ({"score/interim": row.interim.score} if row.interim else {})


def _curve_key(name: str) -> str:
    if name.startswith("seconds_"):
        return valid_key(f"seconds/{name.removeprefix('seconds_')}")
    return valid_key(f"train/{name}")


def outcome_points(outcome: Outcome) -> list[MetricPoint]:
    """Return a trial's scores and costs, all at the time it ended."""
    cost = outcome.cost
    values = _score_values("score", outcome.scores) if outcome.scores else {}
    if outcome.test_scores:
        values |= _score_values("test", outcome.test_scores, "test")
    values |= {
        "cost/steps": cost.steps,
        "cost/trained_tokens": cost.trained_tokens,
        "cost/generated_tokens": cost.generated_tokens,
        "cost/device_seconds": cost.device_seconds,
        **{f"cost/seconds_{part}": seconds for part, seconds in cost.seconds.items()},
    }
    if outcome.peak_bytes is not None:
        values["cost/peak_memory_gib"] = outcome.peak_bytes / 2**30
    if outcome.earlier_seconds:
        values["cost/earlier_attempts_seconds"] = outcome.earlier_seconds
    return _points_at_end(values, outcome)


def server_points(
    record: StudyRecord,
) -> dict[tuple[str, str | None, int | None], list[MetricPoint]]:
    """Return costs of jobs that pay for servers, by kind (``trial``, ``final``), arm and number.

    They follow the values of the jobs' ends: of a metric's values with one step the last counts.
    """
    ended = {
        (kind, arm.name, job.number): job.outcome
        for arm in record.arms
        for kind, jobs in (("trial", arm.trials), ("final", arm.finals))
        for job in jobs
        if job.outcome is not None
    }
    when = max((outcome.finished for outcome in ended.values()), default=0.0) + 0.001
    found: dict[tuple[str, str | None, int | None], list[MetricPoint]] = {}
    for key, outcome in ended.items():
        if servers := outcome.cost.servers:
            values = {
                "cost/device_seconds": outcome.cost.device_seconds,
                "cost/served_device_seconds": sum(servers.values()),
                **{f"cost/served_device_seconds_{role}": part for role, part in servers.items()},
            }
            found[key] = _points_at(values, when)
    return found


def baseline_points(role: Role, outcome: Outcome, *, test: bool = False) -> list[MetricPoint]:
    """Return a baseline's scores: ``teacher/selection``, ``teacher_test/test`` …."""
    if outcome.scores is None:
        return []
    if test:
        return _points_at_end(_score_values(f"{role}_test", outcome.scores, "test"), outcome)
    return _points_at_end(_score_values(role, outcome.scores), outcome)


def pair_points(outcome: Outcome) -> list[MetricPoint]:
    """Return the diagnosis of the study's own teacher: ``pair/shared_mass`` …."""
    return _points_at_end({f"pair/{k}": v for k, v in pair_values(outcome).items()}, outcome)


def engine_points(outcome: Outcome) -> list[MetricPoint]:
    """Return the speeds of engines of rollouts: ``engines/transformers_tokens_per_second`` …."""
    speeds = {
        f"engines/{test.engine}_tokens_per_second": speed
        for test in (outcome.engines.tests if outcome.engines else ())
        if (speed := test.tokens_per_second) is not None
    }
    return _points_at_end(speeds, outcome)


def _score_values(prefix: str, scores: Scores, suite: str = "selection") -> dict[str, float]:
    values = {f"{prefix}/{task.task}": task.score for task in scores.tasks}
    # Last, so that a task with such a name cannot hide the objective.
    return values | {
        f"{prefix}/{suite}": scores.score,
        f"{prefix}/{suite}_stderr": scores.stderr,
    }


def _points_at_end(values: Mapping[str, float], outcome: Outcome) -> list[MetricPoint]:
    return _points_at(values, outcome.finished)


def _points_at(values: Mapping[str, float], seconds: float) -> list[MetricPoint]:
    when = _milliseconds(seconds)
    return [MetricPoint(valid_key(key), float(value), 0, when) for key, value in values.items()]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
