"""What to try after a trial failed: what its settings leave to be tried.

Each piece goes on from "Try". They are in the order to try them: what costs least comes first.
"""

from __future__ import annotations

from sweeper import remedies
from sweeper.config.models import ModelConfig
from sweeper.records import INTERIM_PHASE, TrialSpec

_SCORING = ("evaluate", INTERIM_PHASE)
"""The phases in which a trial is not trained."""


def steadier(spec: TrialSpec) -> tuple[str, ...]:
    """What may keep a training that diverged from doing so."""
    settings = spec.settings
    found = ["a lower learning_rate", "a higher warmup_ratio"]
    if settings.max_grad_norm == 0:
        found.append("max_grad_norm: 1.0")
    if not settings.disable_dropout:
        found.append("disable_dropout: true")
    if spec.method == "gkd":
        found.append("another beta")
    return tuple(found)


def lighter(spec: TrialSpec) -> tuple[str, ...]:
    """What may let a training fit that ran out of memory."""
    origin = spec.origin
    setup = remedies.make_setup(
        spec.method,
        spec.settings,
        origin.student,
        origin.teacher,
        lora=spec.lora,
        own=spec.teacher,
        devices=spec.place.processes,
        shard_student=spec.place.shard_student,
    )
    return tuple(remedies.advice(setup))


def faster(spec: TrialSpec, phase: str) -> tuple[str, ...]:
    """What may make a trial faster that took too long.

    Args:
        spec: The trial's.
        phase: What it was doing.
    """
    if phase in _SCORING:
        return ("a larger evaluation.batch_size", "fewer documents in the suite")
    settings, origin = spec.settings, spec.origin
    samples = spec.method == "gkd" and settings.lmbda > 0
    found = []
    if samples:
        found.append("a lower max_new_tokens")
    if settings.gradient_accumulation_steps > 1:
        found.append(
            "a larger per_device_train_batch_size with fewer gradient_accumulation_steps, if memory"
            " allows it"
        )
    if samples and settings.rollout_batch_size is not None:
        found.append("a larger rollout_batch_size")
    models = [origin.student, *([origin.teacher] if _asks_teacher(spec) else [])]
    if spec.place.device.startswith("cuda") and not all(map(_is_fused, models)):
        found.append("flash attention (init_kwargs: {attn_implementation: flash_attention_2})")
    if _asks_teacher(spec) and not origin.teacher.compile:
        found.append("teacher.compile: true")
    found.append("fewer max_steps")
    if _asks_teacher(spec):
        found.append("an arm seqkd, which asks the teacher once")
    return tuple(found)


def _asks_teacher(spec: TrialSpec) -> bool:
    return spec.method in ("gkd", "supervised_kd")


def _is_fused(model: ModelConfig) -> bool:
    return "flash" in str(model.init_kwargs.get("attn_implementation"))
