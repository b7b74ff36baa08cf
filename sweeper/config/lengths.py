"""How long the sequences of a study may become, by the keys that limit them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Strict
from sweeper.config.settings import MethodSettings
from sweeper.config.study import StudyConfig

Key = Annotated[tuple[str, ...], Field(strict=False)]
"""A key of the study file."""


class LengthLimits(Strict):
    """How long the sequences of an arm, or of the teacher's answers, may become, in tokens."""

    longest: int
    """Tokens of the longest prompt with an answer from the data: what is longer is cut."""
    longest_key: Key
    """Key that sets this limit."""
    sampled: int | None = None
    """Most tokens sampled after a prompt, which nothing cuts; None if nothing is sampled."""
    sampled_key: Key = ()


def study_lengths(config: StudyConfig) -> tuple[LengthLimits, ...]:
    """Return the limits of each arm's sequences, and of a warm start's; the longest it may try."""
    found = [arm_lengths(config, name) for name in config.arms]
    if config.warm_start is not None:
        whole = config.training.max_length
        found.append(LengthLimits(longest=whole, longest_key=("training", "max_length")))
    return tuple(dict.fromkeys(found))


def arm_lengths(config: StudyConfig, name: str) -> LengthLimits:
    """Return the limits of an arm's sequences; the longest it may try."""
    arm = config.arms[name]
    longest, key = _largest(name, arm, "max_length")
    if longest is None:
        longest, key = config.training.max_length, ("training", "max_length")
    if not samples(arm):
        return LengthLimits(longest=longest, longest_key=key)
    sampled, sampled_key = _largest(name, arm, "max_new_tokens")
    if sampled is None:
        sampled = MethodSettings.model_fields["max_new_tokens"].default
    return LengthLimits(longest=longest, longest_key=key, sampled=sampled, sampled_key=sampled_key)


def _largest(name: str, arm: ArmConfig, setting: str) -> tuple[int | None, Key]:
    """Return the largest value that the arm gives a setting; None if it leaves it to the study."""
    if (space := arm.search.get(setting)) is not None:
        values = [value for value in space.ends().values() if isinstance(value, int)]
        return max(values), ("arms", name, "search", setting)
    return arm.settings.get(setting), ("arms", name, "settings", setting)


def samples(arm: ArmConfig) -> bool:
    """Return True if a trial of the arm may sample from its student."""
    if arm.method != "gkd":
        return False
    space = arm.search.get("lmbda")
    if space is None:
        return bool(arm.settings.get("lmbda", MethodSettings.model_fields["lmbda"].default))
    return any(end != 0 for end in space.ends().values())


def has_engine(config: StudyConfig, arm: ArmConfig) -> bool:
    """Return True if ``rollouts.engine`` samples what the arm samples, and not a trainer of TRL."""
    return bool(arm.settings.get("engine", config.training.engine) == "sweeper")
