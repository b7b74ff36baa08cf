"""Teachers that arms have instead of the study's, by their settings ``teacher.NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sweeper.config.arms import ArmConfig
from sweeper.config.base import Scalar
from sweeper.config.settings import model_settings
from sweeper.config.study import StudyConfig


class TeacherUses(NamedTuple):
    """What many trials share of a teacher."""

    answers: bool
    """True if its answers are trained on."""
    reads: tuple[bool, ...]
    """Sequences that it reads in training, as ``ArmConfig.sources`` has them."""


def own_teachers(config: StudyConfig) -> dict[str, dict[str, Scalar]]:
    """Return the teacher settings of each arm that fixes some, and searches none.

    Trials of an arm that searches them prepare their teachers themselves.
    """
    fixed = {
        name: model_settings("teacher", arm.settings)
        for name, arm in config.arms.items()
        if not _searches_teachers(arm)
    }
    return {name: values for name, values in fixed.items() if values}


def named_models(arm: ArmConfig) -> list[str]:
    """Return the models that an arm names as its own teacher, or searches for one."""
    return _named(arm, "teacher.model")


def named_attentions(arm: ArmConfig) -> list[str]:
    """Return the attentions that an arm gives its teacher, or searches for one."""
    return _named(arm, "teacher.init_kwargs.attn_implementation")


def _named(arm: ArmConfig, key: str) -> list[str]:
    space = arm.search.get(key)
    named = (space.grid() or []) if space is not None else [arm.settings.get(key)]
    return [str(value) for value in named if value is not None]


def teacher_uses(config: StudyConfig, own: Mapping[str, Scalar]) -> TeacherUses:
    """Return what trials share of the teacher with ``own`` settings; without any, the study's."""
    warm = config.warm_start
    answers = not own and warm is not None and warm.method == "seqkd"
    reads: set[bool] = set()
    for arm in config.arms.values():
        searches = _searches_teachers(arm)
        if model_settings("teacher", arm.settings) != own or (searches and own):
            continue
        answers |= True in arm.sources()
        on_data = arm.method in ("supervised_kd", "gkd") and not arm.is_on_policy_only()
        engine = arm.settings.get("engine", config.training.engine)
        if on_data and engine == "sweeper" and not searches:
            reads |= arm.sources()
    return TeacherUses(answers, tuple(sorted(reads)))


def _searches_teachers(arm: ArmConfig) -> bool:
    return any(key.startswith("teacher.") for key in arm.search)
