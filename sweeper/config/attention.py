"""Implementations of attention, by transformers' names, and what each asks of model and device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweeper.config.base import KeyPath, Refusal, short
from sweeper.config.device_defaults import on_any_device
from sweeper.config.study import StudyConfig

FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
KNOWN = ("eager", "sdpa", "flex_attention", *FLASH)
"""Those that every phase of a trial can use; a kernel of a hub has a slash in its name."""
DEFAULT = "leave the key out for the model's default attention"


def name_problem(name: Any) -> str | None:
    """Say why ``name`` is no attention that a trial can use; None if it is one, or the default."""
    if name is None or name in KNOWN or (isinstance(name, str) and "/" in name):
        return None
    return f"expected one of {', '.join(KNOWN)}, found {short(name)}"


def precisions(
    weights: str, *, student: bool, autocast: str | None, scoring: str | None
) -> dict[str, str]:
    """Return the type that a model computes in, by the phase of a trial.

    Args:
        weights: Type of the model's weights.
        student: True for the student, which autocast reaches; a teacher also reads without it.
        autocast: Type that autocast trains in, if it is on.
        scoring: Type that models are scored in; None: that of the weights.
    """
    trained = autocast or weights if student else weights
    rollouts = {"rollouts": trained} if student else {}
    scored = scoring or weights
    return {"training": trained, **rollouts, "held-out sequences": scored, "scores": scored}


def attention_problem(
    name: Any, phases: Mapping[str, str], device: str, *, student: bool
) -> str | None:
    """Say why a model cannot use an attention in every phase; None if it can.

    Args:
        name: The attention.
        phases: Type that the model computes in, by phase.
        device: Device of the trials: ``cpu``, ``cuda:0``; ``auto`` if it is not yet known.
        student: True for the student, which is trained.
    """
    flash = isinstance(name, str) and "flash" in name
    if flash and device == "cpu":
        return f"{name} needs a GPU, and trials run on the CPU; {DEFAULT}"
    if name == "flex_attention" and device == "cpu" and student:
        return f"{name} has no gradients on a CPU; leave the key out"
    wide = [phase for phase, dtype in phases.items() if dtype == "float32"]
    if flash and wide:
        return (
            f"{name} computes in 16 bits only, and this model computes in float32 for"
            f" {', '.join(wide)}; {DEFAULT}. Or write dtype: bfloat16 next to model, or for scores"
            " below evaluation"
        )
    return None


def attention_problems(config: StudyConfig) -> Iterator[Refusal]:
    """Yield the attentions that a phase cannot use, as far as the study file decides.

    What ``dtype: auto`` comes to is known once a model's configuration is read, and the defaults of
    the devices once the study starts.
    """
    config = on_any_device(config)
    for location, name, dtype in _attentions(config):
        if message := name_problem(name):
            yield location, message
            continue
        student = location[0] == "student"
        if student and dtype == "auto" and config.student.lora is None:
            dtype = "float32"
        phases = precisions(
            dtype, student=student, autocast=_autocast(config), scoring=config.scoring_dtype()
        )
        if message := attention_problem(name, phases, config.compute.device, student=student):
            yield location, message


def _attentions(config: StudyConfig) -> Iterator[tuple[KeyPath, Any, str]]:
    """Yield each attention that a trial may use, with its place and the type of the weights."""
    key = "attn_implementation"
    for role, model in (("student", config.student), ("teacher", config.teacher)):
        yield (role, "init_kwargs", key), model.init_kwargs.get(key), model.dtype
    teacher = config.teacher
    for name, arm in config.arms.items():
        own = dict(arm.places(f"teacher.init_kwargs.{key}"))
        dtypes = dict(arm.places("teacher.dtype"))
        for place, attention in own.items():
            for dtype in dtypes.values() or (teacher.dtype,):
                yield ("arms", name, *place), attention, str(dtype)
        for place, dtype in () if own else dtypes.items():
            yield ("arms", name, *place), teacher.init_kwargs.get(key), str(dtype)


def _autocast(config: StudyConfig) -> str | None:
    """Return the type that every trial's autocast computes in; None if one has none."""
    for name, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
        if all(value for _, value in config.values_of(name)):
            return dtype
    return None
