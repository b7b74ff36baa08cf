"""Settings that are well-formed and change nothing next to the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Refusal, Scalar
from sweeper.config.lengths import has_engine, samples
from sweeper.config.optimisation import unread_by
from sweeper.config.settings import MethodSettings, resolve, without_effect
from sweeper.config.space import contains
from sweeper.config.study import StudyConfig

_STOCK_HAS_NONE = (
    "checkpoint_every",
    "length_bucketing",
    "rollout_batch_size",
    "stock_normalization",
    "teacher_signal",
    "teacher_top_k",
)
"""Settings that the stock trainers do not have."""
NO_DROPOUT = "at disable_dropout: true, the default, which turns the adapter's off too"


def dead_keys(config: StudyConfig) -> Iterator[Refusal]:
    """Yield settings that change nothing: an arm's in it, the study's in any training."""
    trainings = []
    for name, arm in config.arms.items():
        trainings.append(dead := _dead_in_arm(config, arm))
        for part, keys in (("settings", arm.settings), ("search", arm.search)):
            for key in keys:
                if why := _unless_off(key, dead, arm.settings):
                    yield ("arms", name, part, key), why
    if (warm := config.warm_start) is not None:
        settings = resolve(config.training, warm.settings())
        dead = _dead([settings.lr_scheduler_type], [settings.optim], [settings])
        dead |= dict.fromkeys(("checkpoint_every", "stock_normalization"), "in a warm start")
        trainings.append(dead)
        if warm.warmup_ratio and "warmup_ratio" in dead:
            yield ("warm_start", "warmup_ratio"), _message("warmup_ratio", dead)
    if "engine" in config.rollouts.model_fields_set and (why := _no_engine(config)):
        yield ("rollouts", "engine"), f"has no effect {why}: leave it out"
    written = {name: getattr(config.training, name) for name in config.training.model_fields_set}
    for key in written:
        if all(key in dead for dead in trainings) and (
            why := _unless_off(key, trainings[0], written)
        ):
            yield ("training", key), why


def _no_engine(config: StudyConfig) -> str | None:
    """Return where ``rollouts.engine`` would sample nothing; None if it samples."""
    sampling = [arm for arm in config.arms.values() if samples(arm)]
    if not sampling:
        return "without an arm that samples from its student (gkd with lmbda above 0)"
    if not any(has_engine(config, arm) for arm in sampling):
        return "with training.engine: TRL's trainers sample by themselves"
    return None


def may_drop(arm: ArmConfig) -> bool:
    """Return whether a trial of the arm may train with dropout."""
    if space := arm.search.get("disable_dropout"):
        return contains(space, False)
    return arm.settings.get("disable_dropout") is False


def _unless_off(key: str, dead: Mapping[str, str], values: Mapping[str, Any]) -> str | None:
    """Return the message about a key without effect; None where its value says so itself."""
    if key not in dead or (key == "warmup_ratio" and values.get(key) == 0):
        return None
    return _message(key, dead)


def _message(key: str, dead: Mapping[str, str]) -> str:
    return f"has no effect {dead[key]}: leave it out"


def _dead_in_arm(config: StudyConfig, arm: ArmConfig) -> dict[str, str]:
    """Return the settings that change nothing in an arm, and where."""
    fixed = resolve(config.training, arm.settings)
    names: dict[str, list[str]] = {
        key: [str(name) for _, name in arm.places(key)] or [getattr(fixed, key)]
        for key in ("lr_scheduler_type", "optim")
    }
    texts = [
        fixed.model_copy(update={"extra": {"optim_args": text}})
        for _, text in arm.places("extra.optim_args")
    ]
    dead = _dead(names["lr_scheduler_type"], names["optim"], texts or [fixed])
    if arm.method != "gkd":
        dead["stock_normalization"] = f"in an arm of method {arm.method}"
    lmbda: Scalar = fixed.lmbda
    if space := arm.search.get("lmbda"):
        values = space.grid() or []
        lmbda = values[0] if len(values) == 1 else None
    idle = set(without_effect(arm.method, lmbda))
    if arm.method == "gkd" and lmbda == 0:
        idle.add("rollout_batch_size")
    dead |= dict.fromkeys(idle, f"at lmbda: {lmbda}")
    signals = {value for _, value in arm.places("teacher_signal")} or {fixed.teacher_signal}
    if "top_k" not in signals:
        dead.setdefault("teacher_top_k", "without teacher_signal: top_k")
    if signals == {"sampled"}:
        dead["beta"] = "at teacher_signal: sampled, which estimates the loss of beta: 1"
    if not may_drop(arm):
        dead["lora.dropout"] = NO_DROPOUT
    return dead


def _dead(
    schedules: Sequence[str], optimisers: Sequence[str], trainings: Sequence[MethodSettings]
) -> dict[str, str]:
    """Return the keys of ``training`` that change nothing in a training, and where.

    Args:
        schedules: Schedules that it may have.
        optimisers: Optimisers that it may have.
        trainings: Its settings, with each of the values that ``optim_args`` may have.
    """
    dead = {}
    if set(schedules) == {"constant"}:
        dead["warmup_ratio"] = "with lr_scheduler_type: constant (constant_with_warmup has one)"
    texts = [str(one.extra.get("optim_args", "")) for one in trainings]
    given = [{pair.partition("=")[0].strip() for pair in text.split(",")} for text in texts]
    for key in sorted(unread_by(optimisers, set.intersection(*given))):
        dead[key] = f"with optim: {' or '.join(dict.fromkeys(optimisers))}"
    if (engine := trainings[0].engine) != "sweeper":
        dead |= dict.fromkeys(_STOCK_HAS_NONE, f"with engine: {engine}")
    return dead
