"""What a check says of time: how long the study takes, whether that is allowed, what is slow."""

from __future__ import annotations

from collections.abc import Iterator

from sweeper.analysis.findings import Finding, Preflight
from sweeper.analysis.timing import ArmTiming, DurationEstimate, StudyTiming
from sweeper.commands.check.duration_estimate import estimate
from sweeper.config.loading import LoadedStudy
from sweeper.config.models import ModelConfig
from sweeper.config.settings import MethodSettings, resolve
from sweeper.config.study import StudyConfig
from sweeper.execution.device_sharing import count_workers, usable_devices
from sweeper.foundation.errors import SweeperError
from sweeper.reporting.text.formatting import duration, listed, percent, whole_percents
from sweeper.study.budgets import device_seconds

_SLOW = 60.0
"""Seconds of training from which on a trial is worth being made faster."""
_LARGE = 0.3
"""The share of a step from which on a part of it is worth being made faster."""


def with_time(
    study: LoadedStudy,
    found: Preflight,
    measured: StudyTiming | SweeperError | None,
    test_documents: int | None,
) -> Preflight:
    """The preflight with how long the study takes, whether that is allowed, and what is slow.

    Args:
        study: The checked study file.
        found: What is known of it otherwise.
        measured: What was measured of its trials; or why that failed.
        test_documents: Of the test suite, with those of tasks of weight 0; None without one.
    """
    estimated = None
    if isinstance(measured, SweeperError):
        rows = [Finding(state="error", what="time", detail=str(measured))]
    elif measured is None:
        detail = f"unknown: sweeper check {study.path} --probe measures it"
        rows = [Finding(state="ok", what="time", detail=detail)]
    else:
        estimated = estimate(study.config, measured, test_documents)
        rows = time_findings(study.config, measured, estimated)
    return found.model_copy(update={"findings": (*found.findings, *rows), "estimate": estimated})


def time_findings(
    config: StudyConfig, measured: StudyTiming, found: DurationEstimate
) -> list[Finding]:
    """What is said of an estimate."""
    return [
        _time(found),
        *_budget(config, found),
        *_timeouts(config, found),
        *_slow(config, measured),
    ]


def workers_of(config: StudyConfig) -> int:
    """Trials at a time, of a study that can run here; of a cluster, what the study says of it."""
    compute = config.compute
    if compute.workers is not None or compute.executor != "local":
        return compute.workers or 1
    return count_workers(compute, usable_devices(compute))


def _time(found: DurationEstimate) -> Finding:
    workers = f"{found.workers} worker{'s' * (found.workers != 1)}"
    detail = f"about {duration(found.wall_seconds)} on {workers}"
    low, high = map(duration, found.wall_range)
    if low != high:
        detail += f" ({low} to {high}, by what is sampled)"
    total = sum(phase.device_seconds for phase in found.phases)
    shares = whole_percents({p.name: p.device_seconds / total for p in found.phases})
    largest_first = sorted(shares.items(), key=lambda share: -share[1])
    parts = ", ".join(f"{name} {share} %" for name, share in largest_first)
    detail += f", {found.device_hours:.2g} device-hours: {parts}"
    if found.pruned_wall_seconds is not None:
        detail += (
            f"; without pruning, and {duration(found.pruned_wall_seconds)} if every second trial"
            " that the pruner may end is ended at its first look"
        )
    return Finding(state="ok", what="time", detail=detail)


def _budget(config: StudyConfig, found: DurationEstimate) -> list[Finding]:
    """Whether the search has its trials before a budget ends it."""
    allowed = device_seconds(config.arms, config.budget)
    wall_time = config.budget.wall_time
    if wall_time is None and all(seconds is None for seconds in allowed.values()):
        return []
    short = []
    search = next(phase.wall_seconds for phase in found.phases if phase.name == "search")
    if wall_time is not None and search > wall_time:
        short.append(f"wall_time ends the search after {duration(wall_time)} of {duration(search)}")
    for arm in found.arms:
        seconds, trial = allowed[arm.arm], arm.trial_seconds * config.compute.devices_per_trial
        if seconds is not None and arm.trials * trial > seconds:
            count = int(seconds / trial)
            short.append(f"device_hours end {arm.arm} after {count} of {arm.trials} trials")
    if not short:
        return [Finding(state="ok", what="budget", detail="the search ends within it")]
    advice = "Allow more, or write fewer trials or training.max_steps."
    return [Finding(state="warning", what="budget", detail="; ".join(short), advice=advice)]


def _timeouts(config: StudyConfig, found: DurationEstimate) -> Iterator[Finding]:
    """Whether trials are ended that are only slow."""
    timeout, silence = config.compute.trial_timeout, config.compute.stall_timeout
    late = [arm for arm in found.arms if timeout is not None and arm.trial_range[1] > timeout]
    if late and timeout is not None:
        longest = max(arm.trial_range[1] for arm in late)
        yield Finding(
            state="warning",
            what="trial timeout",
            detail=f"{duration(timeout)} are too short for trials of"
            f" {listed(arm.arm for arm in late)}, which take up to {duration(longest)}",
            advice="Write a longer compute.trial_timeout.",
        )
    scoring = max(arm.scoring_seconds for arm in found.arms)
    if silence is not None and scoring > silence:
        yield Finding(
            state="warning",
            what="stall timeout",
            detail=f"{duration(silence)} are too short for scoring, which takes"
            f" {duration(scoring)} without a sign of progress",
            advice="Write a longer compute.stall_timeout, or score fewer documents.",
        )


def _slow(config: StudyConfig, measured: StudyTiming) -> Iterator[Finding]:
    """What would make training faster, where it is the teacher or sampling that it waits for."""
    for arm in measured.arms:
        pace = arm.at(arm.high)
        shares = {part: seconds / pace.step for part, seconds in pace.parts.items()}
        rollout, teacher = shares.get("rollout", 0.0), shares.get("teacher", 0.0)
        if pace.training < _SLOW or max(rollout, teacher) < _LARGE:
            continue
        advice = list(_remedies(config, measured, arm, rollout=rollout, teacher=teacher))
        sampled = ""
        if pace.rollout_length is not None:
            sampled = f" (rollouts of {pace.rollout_length:.0f} tokens on average)"
        yield Finding(
            state="ok",
            what="slow training",
            detail=f"{arm.arm} spends {percent(rollout)} of a step on sampling{sampled},"
            f" {percent(teacher)} on the teacher",
            advice=" ".join(advice),
        )


def _remedies(
    config: StudyConfig, measured: StudyTiming, arm: ArmTiming, *, rollout: float, teacher: float
) -> Iterator[str]:
    """What can be done, the most effective first."""
    settings = _settings(config, arm)
    if rollout >= _LARGE:
        yield f"Reduce max_new_tokens (up to {settings.max_new_tokens})."
        if settings.rollout_batch_size is not None:
            yield "Leave out rollout_batch_size, if memory allows."
    if settings.gradient_accumulation_steps > 1:
        yield (
            "If memory allows, write a larger per_device_train_batch_size and fewer"
            " gradient_accumulation_steps: the same step in fewer passes."
        )
    on_gpu = measured.device.startswith("cuda")
    models: dict[str, ModelConfig] = {"teacher": config.teacher, "student": config.student}
    plain = [n for n, model in models.items() if "attn_implementation" not in model.init_kwargs]
    if on_gpu and plain:
        yield (
            f"Use Flash Attention 2 for the {listed(plain)}:"
            " init_kwargs: {attn_implementation: flash_attention_2}."
        )
    if teacher >= _LARGE and not config.teacher.compile:
        yield "Compile the teacher: compile: true."


def _settings(config: StudyConfig, arm: ArmTiming) -> MethodSettings:
    """Those of the dearest trials."""
    return resolve(config.training, config.arms[arm.arm].settings, arm.heaviest.params)
