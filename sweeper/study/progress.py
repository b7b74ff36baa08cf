"""From a study that runs to what the terminal shows of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sweeper.config.study import StudyConfig
from sweeper.records import Outcome, PreparationSpec, TrialSpec
from sweeper.reporting.live import (
    ArmProgress,
    EndedJob,
    LiveDisplay,
    LiveJob,
    LiveState,
)
from sweeper.reporting.time_left import RunningTrial, estimate
from sweeper.study.arms import ArmState
from sweeper.study.coordinator import Coordinator
from sweeper.study.jobs import RunningJob


class DisplayObserver:
    """An observer of a study that draws it on a live display."""

    def __init__(self, display: LiveDisplay) -> None:
        self._display = display
        self._ended: list[EndedJob] = []

    def update(self, run: Coordinator) -> None:
        """Draw the study as it is now."""
        self._display.update(_live_state(run, self._ended, time.time()))

    def ended(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Draw a trial's end, from the next update on."""
        self._ended.append(_ended(spec, outcome))

    def message(self, text: str) -> None:
        """Print a line above the live area."""
        self._display.message(text)


def _live_state(run: Coordinator, ended: Sequence[EndedJob], now: float) -> LiveState:
    jobs = list(run.jobs.running.values())
    steps = [job for job in jobs if isinstance(job.spec, PreparationSpec)]
    return LiveState(
        study=run.study.config.study,
        started=run.started,
        arms=tuple(_arm(arm, run) for arm in run.arms.values()),
        running=tuple(running_job(job, now) for job in jobs),
        ended=tuple(ended),
        preparation=", ".join(step_name(job) for job in steps) or None,
        noun="confirmation runs" if run.phase == "confirm" else "trials",
        seconds_left=_seconds_left(run, jobs, now),
        stopping=run.stop.level > 0,
    )


def _arm(arm: ArmState, run: Coordinator) -> ArmProgress:
    scores = [trial.score for trial in arm.ended.values() if trial.score is not None]
    choose = max if run.higher_is_better else min
    failed = sum(trial.state == "failed" for trial in arm.ended.values())
    return ArmProgress(
        name=arm.name,
        method=arm.method,
        budget=arm.budget,
        done=len(arm.ended) - failed,
        failed=failed,
        best=choose(scores, default=None),
    )


def running_job(job: RunningJob, now: float) -> LiveJob:
    """What is shown of a job."""
    label = _label(job.spec) if isinstance(job.spec, TrialSpec) else job.spec.step
    last = job.last
    if last is None:
        return LiveJob(label=label, phase="start")
    rate = None
    if last.step and last.metrics and last.time > job.started:
        rate = (last.step - job.begun) / (last.time - job.started)
    return LiveJob(
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
        label=_label(spec),
        score=found.score if found else None,
        pruned=outcome.state == "pruned",
        failure=f"{failure.kind.replace('_', ' ')}: {failure.message}" if failure else None,
        seconds=outcome.wall_seconds,
    )


def _label(spec: TrialSpec) -> str:
    """``gkd #3``; of a winner that is trained again, its number in the search and the new seed."""
    if spec.final is None:
        return f"{spec.arm} #{spec.number}"
    longer = "" if spec.final.at == "steps" else f", equal {spec.final.at.replace('_', ' ')}"
    return f"{spec.arm} #{spec.final.trial} (new seed {spec.final.seed + 1}{longer})"


def step_name(job: RunningJob) -> str:
    """What a step of the preparation does, in words."""
    assert isinstance(job.spec, PreparationSpec)
    match job.spec.step:
        case "data":
            return "checking the data"
        case "teacher":
            return "scoring the teacher"
        case "test_teacher":
            return "scoring the teacher on the test suite"
        case "test_student":
            return "scoring the starting student on the test suite"
    warm = job.spec.origin.warm_start is not None
    return "warming up and scoring the student" if warm else "scoring the student"


def _seconds_left(run: Coordinator, jobs: list[RunningJob], now: float) -> float | None:
    if not run.arms:
        return None
    seconds = {
        name: [
            trial.seconds / run.study.config.compute.devices_per_trial
            for trial in arm.ended.values()
            if trial.state == "completed"
        ]
        for name, arm in run.arms.items()
    }
    remaining = {name: _remaining(arm, run, jobs) for name, arm in run.arms.items()}
    if run.phase == "search" and run.study.config.confirms():
        remaining = _with_confirmation(remaining, seconds, run.study.config)
    return estimate(
        seconds,
        remaining,
        run.study.config.compute.workers or max(1, len(jobs)),
        [_underway(job, now) for job in jobs if isinstance(job.spec, TrialSpec)],
    )


def _with_confirmation(
    remaining: dict[str, int], seconds: dict[str, list[float]], config: StudyConfig
) -> dict[str, int]:
    """The winners' trainings too, as if each took as long as a trial of its arm.

    At equal seconds, all arms' take as long as the most expensive one's.
    """
    each = config.confirm.top_k * config.confirm.seeds
    found = {name: count + each for name, count in remaining.items()}
    known = {name: sum(took) / len(took) for name, took in seconds.items() if took}
    if "device_seconds" in config.compare_at and known:
        slowest = max(known, key=known.__getitem__)
        found[slowest] += each * (len(found) - 1)
    return found


def _remaining(arm: ArmState, run: Coordinator, jobs: list[RunningJob]) -> int:
    if run.stop_reason(arm.name) is None:
        return arm.budget - len(arm.ended)
    # What runs is finished, and nothing is started.
    return sum(isinstance(job.spec, TrialSpec) and job.spec.arm == arm.name for job in jobs)


def _underway(job: RunningJob, now: float) -> RunningTrial:
    assert isinstance(job.spec, TrialSpec)
    last = job.last
    seconds = now - job.started
    if last is None or not last.max_steps or (last.step or 0) <= job.begun:
        return RunningTrial(job.spec.arm, seconds, 0.0)
    step = last.step or 0
    # As if this attempt had done all of its steps.
    return RunningTrial(job.spec.arm, seconds * step / (step - job.begun), step / last.max_steps)
