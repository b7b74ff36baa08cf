"""What trainings read of a served teacher's judgement: how many tokens, of how long sequences."""

from __future__ import annotations

from typing import NamedTuple

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Strict
from sweeper.config.lengths import Key, LengthLimits, arm_lengths
from sweeper.config.settings import MethodSettings
from sweeper.config.study import StudyConfig

COMPARING = ("gkd", "supervised_kd")
"""Methods that compare the student's distribution with the teacher's."""
_TOP_K = "teacher_top_k"


class JudgedArm(Strict):
    """The sequences of an arm that the teacher judges."""

    limits: LengthLimits
    sources: tuple[bool, ...] = ()
    """Sequences that no student samples, as ``ArmConfig.sources`` has them; none if all are."""


class Judged(Strict):
    """The judgement that a study's trainings read of a served teacher."""

    top_k: int
    """Most tokens at a position; 0: only the one that stands there."""
    top_k_key: Key
    """Key that sets this number."""
    arms: tuple[JudgedArm, ...]


class TopK(NamedTuple):
    """A number of tokens, and the key that sets it."""

    k: int
    key: tuple[str, ...]


def largest_top_k(config: StudyConfig) -> TopK | None:
    """Return the most tokens that an arm may read of the teacher at a position.

    None: no arm reads k tokens.
    """
    found = [top_k for name, arm in config.arms.items() if (top_k := _largest(name, arm))]
    return max(found, key=lambda one: one.k, default=None)


def _largest(name: str, arm: ArmConfig) -> TopK | None:
    signals = [signal for _, signal in arm.places("teacher_signal")]
    if arm.method not in COMPARING or "top_k" not in signals:
        return None
    values = [
        TopK(value, ("arms", name, str(place[0]), _TOP_K)) for place, value in arm.places(_TOP_K)
    ]
    default = TopK(MethodSettings.model_fields[_TOP_K].default, ("arms", name))
    return max(values, key=lambda one: one.k, default=default)


def judged(config: StudyConfig) -> Judged | None:
    """Return what trainings read of the study's served teacher; None if it judges nothing."""
    names = [name for name, arm in config.arms.items() if arm.method in COMPARING]
    if config.teacher.server is None or not names:
        return None
    arms = {
        JudgedArm(
            limits=arm_lengths(config, name),
            sources=() if arm.is_on_policy_only() else tuple(sorted(arm.sources())),
        ): None
        for name in names
        for arm in [config.arms[name]]
    }
    top_k = largest_top_k(config) or TopK(0, ())
    return Judged(top_k=top_k.k, top_k_key=top_k.key, arms=tuple(arms))
