"""What the terminal shows of a study that runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sweeper.config.compute import ComputeConfig
from sweeper.config.confirm import CostMeasure
from sweeper.config.scoring_engine import teacher_is_scored
from sweeper.records import Outcome, PreparationSpec, TrialSpec
from sweeper.reporting.live import ArmProgress, EndedJob, LiveDisplay, LiveJob, LiveState
from sweeper.reporting.time_left import RunningTrial, estimate
from sweeper.study.arms import ArmState
from sweeper.study.collaborators import RunningStudy
from sweeper.study.jobs import RunningJob


@dataclass
class DisplayObserver:
    """An observer of a study that draws it on a live display."""

    display: LiveDisplay
    study: str
    compute: ComputeConfig
    """Devices and workers, for the time that is left."""
    confirmation_runs: int = 0
    """Confirmation runs of each arm at equal steps; 0: none follow the search."""
    compare_at: Sequence[CostMeasure] = ("steps",)
    """Measures of cost at which winners are compared."""
    ended_jobs: list[EndedJob] = field(default_factory=list)

    def update(self, run: RunningStudy) -> None:
        """Draw the study as it is now."""
        self.display.update(self._state(run, time.time()))

    def ended(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Draw a trial's end, from the next update on."""
        failure, scores = outcome.failure, outcome.scores or outcome.interim
        job = EndedJob(
            label=_label(spec),
            score=scores.score if scores else None,
            pruned=outcome.state == "pruned",
            failure=f"{failure.kind.replace('_', ' ')}: {failure.message}" if failure else None,
            seconds=outcome.wall_seconds,
        )
        self.ended_jobs.append(job)

    def message(self, text: str) -> None:
        """Print a line above the live area."""
        self.display.message(text)

    def _state(self, run: RunningStudy, now: float) -> LiveState:
        jobs = list(run.jobs.running.values())
        steps = [job for job in jobs if isinstance(job.spec, PreparationSpec)]
        return LiveState(
            study=self.study,
            started=run.started,
            arms=tuple(_arm(arm, run) for arm in run.arms.values()),
            running=tuple(running_job(job, now) for job in jobs),
            ended=tuple(self.ended_jobs),
            preparation=run.waiting_for or ", ".join(step_name(job) for job in steps) or None,
            noun="confirmation runs" if run.phase == "confirm" else "trials",
            seconds_left=self._seconds_left(run, jobs, now),
            stopping=run.stop.level > 0,
        )

    def _seconds_left(
        self, run: RunningStudy, jobs: Sequence[RunningJob], now: float
    ) -> float | None:
        if not run.arms:
            return None
        seconds = {
            name: [
                trial.seconds / self.compute.devices_per_trial
                for trial in arm.ended.values()
                if trial.state == "completed"
            ]
            for name, arm in run.arms.items()
        }
        remaining = {name: _remaining(arm, run, jobs) for name, arm in run.arms.items()}
        if run.phase == "search" and self.confirmation_runs:
            remaining = self._with_confirmation(remaining, seconds)
        return estimate(
            seconds,
            remaining,
            self.compute.workers or max(1, len(jobs)),
            [_underway(job, now) for job in jobs if isinstance(job.spec, TrialSpec)],
        )

    def _with_confirmation(
        self, remaining: Mapping[str, int], seconds: Mapping[str, Sequence[float]]
    ) -> dict[str, int]:
        """Add the confirmation runs, as if each took as long as a trial of its arm.

        At equal seconds, those of all arms take as long as the most expensive arm's.
        """
        counts = {name: count + self.confirmation_runs for name, count in remaining.items()}
        means = {name: sum(took) / len(took) for name, took in seconds.items() if took}
        if "device_seconds" in self.compare_at and means:
            slowest = max(means, key=means.__getitem__)
            counts[slowest] += self.confirmation_runs * (len(counts) - 1)
        return counts


def _arm(arm: ArmState, run: RunningStudy) -> ArmProgress:
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
    """Return what the display shows of a job."""
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


def _label(spec: TrialSpec) -> str:
    """Return ``gkd #3``; of a confirmation run, the winner's number and the new seed."""
    if spec.final is None:
        return f"{spec.arm} #{spec.number}"
    longer = "" if spec.final.at == "steps" else f", equal {spec.final.at.replace('_', ' ')}"
    return f"{spec.arm} #{spec.final.trial} (new seed {spec.final.seed + 1}{longer})"


def step_name(job: RunningJob) -> str:
    """Return what a step of the preparation does, in words."""
    assert isinstance(job.spec, PreparationSpec)
    match job.spec.step:
        case "data":
            return "checking the data"
        case "teacher":
            has_score = teacher_is_scored(job.spec.origin.teacher, job.spec.origin.evaluation)
            return "scoring the teacher" if has_score else "asking the teacher"
        case "answers":
            return "sampling the teacher's answers"
        case "start":
            warm = job.spec.origin.warm_start is not None
            return "warming up the student" if warm else "writing the student for its server"
        case "engines":
            return "testing engines of rollouts"
        case "pair":
            return "comparing teacher and student"
        case "test_teacher":
            return "scoring the teacher on the test suite"
        case "test_student":
            return "scoring the starting student on the test suite"
    if job.spec.own_teacher:
        return f"scoring the teacher of {job.spec.step.partition('@')[2]}"
    warm = job.spec.origin.warm_start is not None
    return "warming up and scoring the student" if warm else "scoring the student"


def _remaining(arm: ArmState, run: RunningStudy, jobs: Sequence[RunningJob]) -> int:
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
