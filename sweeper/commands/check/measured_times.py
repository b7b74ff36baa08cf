"""Measured times of trials: of a probe's, or of those that the study has run already."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sweeper.analysis.comparison import scored_trials
from sweeper.analysis.timing import ArmTiming, StudyTiming, TrialTiming
from sweeper.config.base import Scalar
from sweeper.records import INTERIM_PHASE, Outcome, Progress
from sweeper.records.study_record import ArmRecord, StudyRecord

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


def timing_of_study(
    record: StudyRecord, names: Collection[str], workers: int
) -> StudyTiming | None:
    """Return the times of a study that has begun; None until every arm has a scored trial.

    Args:
        record: The study.
        names: Its arms as it is written now, perhaps with some that were added since.
        workers: Trials at a time.
    """
    ends = {"teacher": record.teacher, "student": record.starting_student}
    arms = [arm for arm in map(_arm, record.arms) if arm is not None]
    if {arm.arm for arm in arms} != set(names) or not (record.teacher and record.teacher.scores):
        return None
    scores = record.teacher.scores
    return StudyTiming(
        basis="records",
        trials=sum(len(scored_trials(arm)) for arm in record.arms),
        workers=workers,
        device=record.teacher.device,
        preparation={name: end.finished - end.started for name, end in ends.items() if end},
        teacher_scoring=scores.seconds,
        documents=sum(task.documents for task in scores.tasks),
        tasks=len(scores.tasks),
        arms=tuple(arms),
    )


def _arm(arm: ArmRecord) -> ArmTiming | None:
    trials = [
        _timing(trial.outcome, trial.params)
        for trial, _ in scored_trials(arm)
        if trial.outcome is not None and trial.outcome.cost.steps
    ]
    if not trials:
        return None
    trials.sort(key=lambda trial: trial.seconds)
    return ArmTiming(arm=arm.name, method=arm.method, lightest=trials[0], heaviest=trials[-1])


def _timing(outcome: Outcome, params: dict[str, Scalar]) -> TrialTiming:
    cost, steps, devices = outcome.cost, outcome.cost.steps, outcome.devices
    # A cost counts the seconds of each device; a timing counts those of the clock.
    training = cost.training_seconds() / devices
    scoring = outcome.scores.seconds if outcome.scores else 0.0
    # Includes intermediate scores, which the estimate adds by itself.
    evaluation = max(cost.seconds.get("evaluation", 0.0) / devices, scoring)
    return TrialTiming(
        params=params,
        start=max(outcome.wall_seconds - training - evaluation, 0.0),
        step=training / steps,
        steps=steps,
        scoring=scoring,
        parts={part: cost.seconds.get(part, 0.0) / devices / steps for part in _PARTS},
        trained_tokens=cost.trained_tokens / steps,
        rollout_length=outcome.rollouts.length if outcome.rollouts else None,
        peak_bytes=outcome.peak_bytes,
    )
