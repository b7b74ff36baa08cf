"""Findings on settings: which have no effect, and which are known to cause trouble."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sweeper.analysis.findings import Finding
from sweeper.config.arms import ArmConfig
from sweeper.config.dead_keys import NO_DROPOUT, may_drop
from sweeper.config.judgement import judged
from sweeper.config.scoring_engine import teacher_is_scored
from sweeper.config.settings import in_steps, resolve
from sweeper.config.study import StudyConfig
from sweeper.records.collapse import CONSECUTIVE
from sweeper.reporting.text import formatting

_LARGE = 1_000_000_000
"""Parameters from which on a student is better trained through an adapter."""


def settings_findings(
    config: StudyConfig,
    devices: Sequence[str] = (),
    student: int | None = None,
    rows: int | None = None,
    attention: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Report settings without effect, dropout, the adapter and the attention.

    There are no devices if trials run elsewhere; ``student`` counts parameters and ``rows`` those
    that are trained on, and ``attention`` has each model's default, if they are known.
    """
    dead = [*_dead_everywhere(config, rows)]
    for name, arm in config.arms.items():
        dead += [
            finding.model_copy(update={"detail": f"{name}: {finding.detail}"})
            for finding in _dead_in_arm(config, arm)
        ]
    if not dead:
        detail = "every setting that is written has an effect"
        dead = [Finding(state="ok", what="settings", detail=detail)]
    return [
        *dead,
        _dropout(config),
        _adapter(config, student),
        *_attention(config, devices, attention or {}),
    ]


def _dead(names: Sequence[str], why: str, advice: str) -> Finding:
    verb = "changes" if len(names) == 1 else "change"
    detail = f"{' and '.join(names)} {verb} nothing {why}"
    return Finding(state="warning", what="settings", detail=detail, advice=advice)


def _dead_everywhere(config: StudyConfig, rows: int | None) -> Iterator[Finding]:
    written = config.model_fields_set
    if "teacher_outputs" in written and not config.needs_teacher_outputs():
        why = "without an arm that reads the teacher's answers"
        yield _dead(["teacher_outputs"], why, "Leave it out, or add an arm seqkd.")
    asked = config.needs_teacher_outputs() or judged(config) is not None
    scored = teacher_is_scored(config.teacher, config.evaluation)
    if not scored and not asked:
        why = "without an arm or a warm start that learns from the teacher"
        yield _dead(["teacher.server"], why, "Add an arm seqkd.")
    if config.data.assistant_turns == "all" and not config.uses_references():
        why = "without an arm or a warm start that trains on references"
        yield _dead(["data.assistant_turns"], why, "Leave it out.")
    if "collapse" in written:
        trainings = [_rollouts(config, arm, rows) for arm in config.arms.values()]
        most = max(trainings, key=lambda training: training.judged)
        if not any(training.each for training in trainings):
            why = "without an arm whose student is sampled from (gkd with lmbda above 0)"
            yield _dead(["collapse"], why, "Leave it out.")
        elif most.judged < CONSECUTIVE:
            why = (
                f"in trainings of {most.points:,} logged points with about {most.each:,.0f}"
                f" rollouts each: too few windows of {config.collapse.min_rollouts} can be judged"
            )
            advice = "Write fewer min_rollouts, fewer logging_steps, or train longer."
            yield _dead(["collapse"], why, advice)
    written_keys = [key for key in ("compare_at", "margin") if key in written]
    if written_keys and not config.confirms():
        yield _dead(written_keys, "without a confirmation", "Write evaluation: {test: SUITE}.")
    idle = [key for key in ("sampler", "pruner") if key in written]
    if idle and not any(arm.search for arm in config.arms.values()):
        yield _dead(idle, "as no arm searches anything", "Leave it out, or let an arm search.")
    reading = any(arm.method in ("supervised_kd", "gkd") for arm in config.arms.values())
    if config.teacher.compile and not reading:
        why = "without an arm in which the teacher reads (gkd, supervised_kd)"
        yield _dead(["teacher.compile"], why, "Leave it out.")
    lora = config.student.lora
    if lora is not None and lora.dropout and not any(map(may_drop, config.arms.values())):
        yield _dead(["student.lora.dropout"], NO_DROPOUT, "Leave it out.")


class _Rollouts(NamedTuple):
    """Points that a training logs, the rollouts of each, and the windows that can be judged."""

    points: int
    each: float
    judged: int


def _rollouts(config: StudyConfig, arm: ArmConfig, rows: int | None) -> _Rollouts:
    """Return what sweeper's engine may sample in a training of the arm, at most and about."""
    names = (
        *("max_steps", "num_train_epochs", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "lmbda"),
    )
    largest = {
        name: max(value for value in space.ends().values() if isinstance(value, int | float))
        for name, space in arm.search.items()
        if name in names
    }
    devices = config.compute.devices_per_trial
    most = in_steps(resolve(config.training, arm.settings, largest), rows, devices)
    window = most.per_device_train_batch_size * most.gradient_accumulation_steps * devices
    each = most.logging_steps * window * most.lmbda
    points = most.max_steps // most.logging_steps
    if arm.method != "gkd" or most.engine != "sweeper" or not each:
        return _Rollouts(points, 0.0, 0)
    if most.num_train_epochs is not None and rows is None:
        return _Rollouts(points, each, CONSECUTIVE)  # not known yet
    start = math.ceil(CONSECUTIVE * config.collapse.min_rollouts / each)
    size = math.ceil(config.collapse.min_rollouts / each)
    early = max(0, math.floor((config.collapse.grace * points - start) / size))
    return _Rollouts(points, each, (points - start) // size - early)


def _dead_in_arm(config: StudyConfig, arm: ArmConfig) -> Iterator[Finding]:
    fixed = resolve(config.training, arm.settings)
    every, steps = fixed.checkpoint_every, fixed.max_steps
    counted = fixed.num_train_epochs is None and "max_steps" not in arm.search
    if every is not None and every >= steps and counted:
        why = f"in trainings of {steps:,} steps"
        yield _dead(["checkpoint_every"], why, "Write a smaller number, or leave it out.")


def _dropout(config: StudyConfig) -> Finding:
    without = [
        name for name, arm in config.arms.items() if arm.settings.get("disable_dropout") is False
    ]
    if without:
        detail = f"{', '.join(without)}: disable_dropout: false makes training less stable"
        advice = "Leave it out: true is the default."
        return Finding(state="warning", what="dropout", detail=detail, advice=advice)
    searched = ", ".join(name for name, arm in config.arms.items() if may_drop(arm))
    detail = f"searched in {searched}, off in the other arms" if searched else "off in every arm"
    return Finding(state="ok", what="dropout", detail=detail)


def _adapter(config: StudyConfig, student: int | None) -> Finding:
    lora = config.student.lora
    if lora is None and student is not None and student > _LARGE:
        detail = f"none: all of the student's {formatting.count(student)} weights are trained,"
        detail += " with a gradient and two states of the optimiser each"
        advice = "Write student: {lora: {r: 16, alpha: 32}}: an adapter takes a small part of that."
        return Finding(state="warning", what="adapter", detail=detail, advice=advice)
    detail = "none: all of the student's weights are trained"
    if lora is not None:
        modules = lora.target_modules
        layers = "all linear layers" if isinstance(modules, str) else ", ".join(modules)
        detail = f"LoRA of rank {lora.r}, alpha {lora.alpha:g}, on {layers}"
    return Finding(state="ok", what="adapter", detail=detail)


def _attention(
    config: StudyConfig, devices: Sequence[str], default: Mapping[str, str]
) -> Iterator[Finding]:
    if not any(device.startswith("cuda") for device in devices):
        return
    models = {"teacher": config.teacher, "student": config.student}
    used, advice = {}, ""
    for role, model in models.items():
        usual = default.get(role, "the default attention")
        used[role] = model.init_kwargs.get("attn_implementation") or usual
        if model.is_eager() and usual == "sdpa":
            advice = "Leave attn_implementation: eager out: sdpa is faster and takes less memory."
    detail = ", ".join(f"{name} in the {role}" for role, name in used.items())
    yield Finding(state="ok", what="attention", detail=detail, advice=advice)
