"""From a study that runs to what the terminal shows of it."""

from __future__ import annotations

import time

from sweeper.jobs import RunningJob as Job
from sweeper.records import Outcome, PreparationSpec, TrialSpec
from sweeper.reporting.live import (
    ArmProgress,
    EndedJob,
    LiveDisplay,
    LiveState,
    RunningJob,
    Underway,
    estimate,
)
from sweeper.study import ArmState, StudyRun


class Watcher:
    """An observer of a study that draws it on a live display."""

    def __init__(self, display: LiveDisplay) -> None:
        self._display = display

    def update(self, run: StudyRun) -> None:
        """Draw the study as it is now."""
        self._display.update(live_state(run, time.time()))

    def message(self, text: str) -> None:
        """Print a line above the live area."""
        self._display.message(text)


def live_state(run: StudyRun, now: float) -> LiveState:
    """What to show of ``run`` at the time ``now``, in seconds since the epoch."""
    jobs = list(run.jobs.values())
    steps = [job for job in jobs if isinstance(job.spec, PreparationSpec)]
    return LiveState(
        study=run.study.config.study,
        started=run.started,
        arms=tuple(_arm(arm, run) for arm in run.arms.values()),
        running=tuple(_job(job, now) for job in jobs),
        ended=tuple(_ended(spec, outcome) for spec, outcome in run.ended),
        preparation=", ".join(_step_name(job) for job in steps) or None,
        seconds_left=_seconds_left(run, jobs, now),
        stopping=run.stop.level > 0,
    )


def _arm(arm: ArmState, run: StudyRun) -> ArmProgress:
    scores = [outcome.scores for outcome in arm.outcomes.values() if outcome.scores]
    best = None
    if scores:
        choose = max if scores[0].higher_is_better else min
        best = choose(score.score for score in scores)
    failed = sum(outcome.state == "failed" for outcome in arm.outcomes.values())
    return ArmProgress(
        name=arm.name,
        method=arm.method,
        budget=arm.budget,
        done=len(arm.outcomes) - failed,
        failed=failed,
        best=best,
    )


def _job(job: Job, now: float) -> RunningJob:
    label = (
        f"{job.spec.arm} #{job.spec.number}" if isinstance(job.spec, TrialSpec) else job.spec.step
    )
    last = job.last
    if last is None:
        return RunningJob(label=label, phase="start")
    rate = None
    if last.step and last.metrics and last.time > job.started:
        rate = (last.step - job.begun) / (last.time - job.started)
    return RunningJob(
        label=label,
        phase=last.phase,
        step=last.step,
        max_steps=last.max_steps,
        loss=last.metrics.get("loss"),
        steps_per_second=rate,
    )


def _ended(spec: TrialSpec, outcome: Outcome) -> EndedJob:
    failure, found = outcome.failure, outcome.scores or outcome.interim
    return EndedJob(
        label=f"{spec.arm} #{spec.number}",
        score=found.score if found else None,
        pruned=outcome.state == "pruned",
        failure=f"{failure.kind.replace('_', ' ')}: {failure.message}" if failure else None,
        seconds=outcome.cost.device_seconds,
    )


def _step_name(job: Job) -> str:
    assert isinstance(job.spec, PreparationSpec)
    if job.spec.step == "data":
        return "checking the data"
    if job.spec.step == "teacher":
        return "scoring the teacher"
    warm = job.spec.origin.warm_start is not None
    return "warming up and scoring the student" if warm else "scoring the student"


def _seconds_left(run: StudyRun, jobs: list[Job], now: float) -> float | None:
    if not run.arms:
        return None
    return estimate(
        {
            name: [o.cost.device_seconds for o in arm.outcomes.values() if o.state == "completed"]
            for name, arm in run.arms.items()
        },
        {name: _remaining(arm, run, jobs) for name, arm in run.arms.items()},
        run.study.config.compute.workers or max(1, len(jobs)),
        [_underway(job, now) for job in jobs if isinstance(job.spec, TrialSpec)],
    )


def _remaining(arm: ArmState, run: StudyRun, jobs: list[Job]) -> int:
    if run.stop_reason(arm.name) is None:
        return arm.budget - len(arm.outcomes)
    # What runs is finished, and nothing is started.
    return sum(isinstance(job.spec, TrialSpec) and job.spec.arm == arm.name for job in jobs)


def _underway(job: Job, now: float) -> Underway:
    assert isinstance(job.spec, TrialSpec)
    last = job.last
    seconds = now - job.started
    if last is None or not last.max_steps or (last.step or 0) <= job.begun:
        return Underway(job.spec.arm, seconds, 0.0)
    step = last.step or 0
    # As if this attempt had done all of its steps.
    return Underway(job.spec.arm, seconds * step / (step - job.begun), step / last.max_steps)
