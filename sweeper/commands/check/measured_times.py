"""What trials take, read from what they left: the study's own trials, or those of a probe."""

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
    """What a trial would take that was ended where it was scored in the midst of its training.

    The first step, which has things to set up, is not taken for one like the others.

    Args:
        rows: Everything that the trial said, among it a point of the curve after every step.
        submitted: When it was started, in seconds since the epoch.
        documents: Of the selection suite, with those of tasks of weight 0. Those that it was scored
            on first stand for them.
        params: What was chosen for it of its arm's search.
    """
    pauses = [row for row in rows if row.phase == INTERIM_PHASE and row.interim is None]
    scored = next(row for row in rows if row.interim is not None)
    assert scored.interim is not None and scored.interim.scored is not None
    training = [row for row in rows if row.phase == "train"]
    points = [row for row in training if row.metrics]
    first = [row for row in training if (row.step or 0) < min(2, pauses[0].step or 0)][-1]
    # It goes on after a pause with a line that is no point.
    begins = [first, *(row for row in training if not row.metrics and row.step)]
    steps = sum((end.step or 0) - (begin.step or 0) for begin, end in _pairs(begins, pauses))
    step = sum(end.time - begin.time for begin, end in _pairs(begins, pauses)) / steps
    usual = [row for row in points if (row.step or 0) > (first.step or 0)]
    lengths = [row.metrics["rollout_length"] for row in usual if "rollout_length" in row.metrics]
    return TrialTiming(
        params=params,
        start=max(first.time - submitted - (first.step or 0) * step, 0.0),
        step=step,
        steps=pauses[0].max_steps or 0,
        scoring=(scored.time - pauses[0].time) * documents / scored.interim.scored,
        parts={
            part: sum(row.metrics.get(f"seconds_{part}", 0.0) for row in usual) / len(usual)
            for part in _PARTS
        },
        trained_tokens=points[-1].metrics["trained_tokens"] / (points[-1].step or 1),
        rollout_length=sum(lengths) / len(lengths) if lengths else None,
    )


def seconds_by_phase(rows: Sequence[Progress], finished: float) -> dict[str, float]:
    """How long a step of the preparation was in each of its phases, by its own clock."""
    found: dict[str, float] = {}
    for row, after in zip(rows, [*(row.time for row in rows[1:]), finished], strict=True):
        # A warm start says how far its training is.
        phase = "warm start" if row.phase == "train" else row.phase
        found[phase] = found.get(phase, 0.0) + after - row.time
    return found


def _pairs(begins: Sequence[Progress], ends: Sequence[Progress]) -> list[tuple[Progress, Progress]]:
    return list(zip(begins, ends, strict=False))


def timing_of_study(
    record: StudyRecord, names: Collection[str], workers: int
) -> StudyTiming | None:
    """What the trials of a study say that has begun; None until every arm has a scored one.

    Args:
        record: The study.
        names: Its arms as it is written now, perhaps with some that were added since.
        workers: Trials at a time.
    """
    ends = {"teacher": record.teacher, "student": record.starting_student}
    arms = [arm for arm in map(_arm, record.arms) if arm is not None]
    teacher = record.teacher.scores if record.teacher else None
    if {arm.arm for arm in arms} != set(names) or teacher is None:
        return None
    return StudyTiming(
        basis="records",
        trials=sum(len(scored_trials(arm)) for arm in record.arms),
        workers=workers,
        device=record.teacher.device if record.teacher else "cpu",
        preparation={name: end.finished - end.started for name, end in ends.items() if end},
        teacher_scoring=teacher.seconds,
        documents=sum(task.documents for task in teacher.tasks),
        tasks=len(teacher.tasks),
        arms=tuple(arms),
    )


def _arm(arm: ArmRecord) -> ArmTiming | None:
    paces = sorted(
        (
            _timing(trial.outcome, trial.params)
            for trial, _ in scored_trials(arm)
            if trial.outcome is not None and trial.outcome.cost.steps
        ),
        key=lambda pace: pace.seconds,
    )
    if not paces:
        return None
    lightest, heaviest = paces[0], paces[-1]
    spread = heaviest.seconds - lightest.seconds
    mean = sum(pace.seconds for pace in paces) / len(paces)
    return ArmTiming(
        arm=arm.name,
        method=arm.method,
        lightest=lightest,
        heaviest=heaviest,
        mean=(mean - lightest.seconds) / spread if spread else 0.0,
    )


def _timing(outcome: Outcome, params: dict[str, Scalar]) -> TrialTiming:
    cost, steps, devices = outcome.cost, outcome.cost.steps, outcome.devices
    # A cost counts the seconds of each device; here is asked how long it takes.
    training = cost.training_seconds() / devices
    scoring = outcome.scores.seconds if outcome.scores else 0.0
    # With what the pruner looked at, which is counted for each trial by itself.
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
