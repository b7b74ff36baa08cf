"""Findings on time: how long the study takes, whether a limit ends it, and what is slow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sweeper.analysis.findings import Finding
from sweeper.analysis.timing import DurationEstimate, StudyTiming
from sweeper.config.models import ModelConfig
from sweeper.config.settings import resolve
from sweeper.config.started_server import StartedServer
from sweeper.config.study import StudyConfig
from sweeper.reporting.text.formatting import duration, listed, percent, whole_percents

_SLOW = 60.0
"""Seconds of training from which on a trial is worth being made faster."""
_LARGE = 0.3
"""Share of a step from which on a part of it is worth being made faster."""


def time_finding(expected: DurationEstimate, served: float = 0.0) -> Finding:
    """Describe the study's duration and what it is spent on.

    ``served`` are the device-hours of the teacher's server, on devices of its own.
    """
    workers = f"{expected.workers} worker{'s' * (expected.workers != 1)}"
    detail = f"about {duration(expected.wall_seconds)} on {workers}"
    low, high = map(duration, expected.wall_range)
    if low != high:
        detail += f" ({low} if all trials are cheap, {high} if all are expensive)"
    total = sum(phase.device_seconds for phase in expected.phases)
    shares = whole_percents({p.name: p.device_seconds / total for p in expected.phases})
    largest_first = sorted(shares.items(), key=lambda share: -share[1])
    parts = ", ".join(f"{name} {share} %" for name, share in largest_first)
    detail += f", {expected.device_hours:.2g} device-hours: {parts}"
    if served:
        detail += f"; about {served:.2g} more of the teacher's server"
    return Finding(state="ok", what="time", detail=detail)


def server_hours(config: StudyConfig, device: str, expected: DurationEstimate) -> float:
    """Return the device-hours of the teacher's server that sweeper starts; 0 if it starts none.

    It is up through the preparation, and through trials and confirmation runs if they ask it. On a
    CPU, the ``device`` of trials, it has no device of its own.
    """
    server = config.teacher.server
    if not isinstance(server, StartedServer) or not device.startswith("cuda"):
        return 0.0
    judges = any(arm.method in ("gkd", "supervised_kd") for arm in config.arms.values())
    phases = ("preparation", "search", "confirmation") if judges else ("preparation",)
    seconds = sum(phase.wall_seconds for phase in expected.phases if phase.name in phases)
    return seconds * (1 if server.gpus is None else server.gpus) / 3600


def budget_findings(
    expected: DurationEstimate,
    devices: int,
    wall_time: float | None,
    device_seconds: Mapping[str, float | None],
) -> list[Finding]:
    """Report budgets that end the search before it has had its trials.

    A trial takes ``devices`` devices; ``device_seconds`` are what each arm's trials may take.
    """
    if wall_time is None and all(seconds is None for seconds in device_seconds.values()):
        return []
    short = []
    search = next(phase.wall_seconds for phase in expected.phases if phase.name == "search")
    if wall_time is not None and search > wall_time:
        short.append(f"wall_time ends the search after {duration(wall_time)} of {duration(search)}")
    for arm in expected.arms:
        seconds, trial = device_seconds[arm.arm], arm.trial_seconds * devices
        if seconds is not None and arm.trials * trial > seconds:
            count = int(seconds / trial)
            short.append(f"device_hours end {arm.arm} after {count} of {arm.trials} trials")
    if not short:
        return [Finding(state="ok", what="budget", detail="the search ends within it")]
    advice = "Allow more, or write fewer trials or training.max_steps."
    return [Finding(state="warning", what="budget", detail="; ".join(short), advice=advice)]


def timeout_findings(
    expected: DurationEstimate, timeout: float | None, silence: float | None
) -> Iterator[Finding]:
    """Yield the timeouts that end trials that are only slow.

    A trial may take ``timeout`` seconds, and ``silence`` seconds without a sign of progress.
    """
    late = [arm for arm in expected.arms if timeout is not None and arm.trial_range[1] > timeout]
    if late and timeout is not None:
        longest = max(arm.trial_range[1] for arm in late)
        yield Finding(
            state="warning",
            what="trial timeout",
            detail=f"{duration(timeout)} are too short for trials of"
            f" {listed(arm.arm for arm in late)}, which take up to {duration(longest)}",
            advice="Write a longer compute.trial_timeout.",
        )
    scoring = max(arm.scoring_seconds for arm in expected.arms)
    if silence is not None and scoring > silence:
        yield Finding(
            state="warning",
            what="stall timeout",
            detail=f"{duration(silence)} are too short for scoring, which takes"
            f" {duration(scoring)} without a sign of progress",
            advice="Write a longer compute.stall_timeout, or score fewer documents.",
        )


def slow_findings(timing: StudyTiming, config: StudyConfig) -> Iterator[Finding]:
    """Yield what would make training faster, where it waits for the teacher or for sampling."""
    arms, training = config.arms, config.training
    teacher, student = config.teacher, config.student
    for arm in timing.arms:
        trial = arm.heaviest
        shares = {part: seconds / trial.step for part, seconds in trial.parts.items()}
        rollout, asked = shares.get("rollout", 0.0), shares.get("teacher", 0.0)
        if trial.training < _SLOW or max(rollout, asked) < _LARGE:
            continue
        settings = resolve(training, arms[arm.arm].settings, trial.params)
        advice = []
        if rollout >= _LARGE:
            advice.append(f"Reduce max_new_tokens (up to {settings.max_new_tokens}).")
        if rollout >= _LARGE and settings.rollout_batch_size is not None:
            advice.append("Leave out rollout_batch_size, if memory allows.")
        unset = "engine" not in config.rollouts.model_fields_set
        if rollout >= _LARGE and unset and timing.device.startswith("cuda"):
            advice.append("Write rollouts: {engine: auto}, which takes the fastest engine.")
        if settings.gradient_accumulation_steps > 1:
            advice.append(
                "If memory allows, write a larger per_device_train_batch_size and fewer"
                " gradient_accumulation_steps: the same step in fewer passes."
            )
        models: dict[str, ModelConfig] = {"teacher": teacher, "student": student}
        if eager := [name for name, model in models.items() if model.is_eager()]:
            advice.append(f"Leave out attn_implementation: eager of the {listed(eager)}.")
        if asked >= _LARGE and teacher.server is not None:
            advice.append("Ask the teacher's server for more at a time: a higher concurrency.")
        elif asked >= _LARGE and not teacher.compile:
            advice.append("Compile the teacher: compile: true.")
        sampled = ""
        if trial.rollout_length is not None:
            sampled = f" (rollouts of {trial.rollout_length:.0f} tokens on average)"
        yield Finding(
            state="ok",
            what="slow training",
            detail=f"{arm.arm} spends {percent(rollout)} of a step on sampling{sampled},"
            f" {percent(asked)} on the teacher",
            advice=" ".join(advice),
        )
