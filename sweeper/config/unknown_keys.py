"""Names that no setting has, or that an arm cannot use: what the messages about them say."""

from __future__ import annotations

import difflib
from typing import Any

from sweeper.config.base import Problems
from sweeper.config.models import init_kwarg_problem
from sweeper.config.settings import (
    DOTTED,
    GKD_KEYS,
    INIT_KWARGS,
    METHOD_KEYS,
    NOT_SEARCHABLE,
    TRAINING_KEYS,
    Method,
    is_setting,
    value_problem,
)
from sweeper.foundation.secrets import is_secret_name

OTHER_SPELLINGS = {
    "teacher_model_name_or_path": "teacher.model",
    "teacher_model_init_kwargs": "teacher.init_kwargs.NAME",
    "lora_r": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lambda": "lmbda",
    "batch_size": "per_device_train_batch_size",
    "lr": "learning_rate",
}
"""Names from other tools, answered with ours."""


def known_settings(method: Method) -> list[str]:
    """Return the names that an arm of ``method`` may fix or search, open-ended ones left out."""
    return sorted((TRAINING_KEYS - {"extra"}) | METHOD_KEYS[method] | set(DOTTED))


def check_setting(method: Method, name: str, value: Any, *, searched: bool) -> str | None:
    """Say what is wrong with giving ``name`` the ``value`` in an arm of ``method``, or None.

    The message has no file and no key: the caller adds them.
    """
    return name_problem(method, name, searched=searched) or value_problem(name, value)


def name_problem(method: Method, name: str, *, searched: bool) -> str | None:
    """Say why an arm of ``method`` cannot fix, or search, ``name``; None if it can."""
    if not is_setting(name):
        return unknown_name(name, known_settings(method))
    if searched and name in NOT_SEARCHABLE:
        mapping = name in ("extra", "lr_scheduler_kwargs")
        hint = f": name the argument, as in {name}.NAME" if mapping else ""
        return f"{name!r} cannot be searched{hint}"
    if name.startswith(INIT_KWARGS):
        # Trust in code is a matter of the study's teacher, and checked there.
        argument = name.removeprefix(INIT_KWARGS)
        if message := init_kwarg_problem(argument, None):
            return message
        if searched and is_secret_name(argument):
            return f"{name!r} cannot be searched: what is searched is recorded, secrets are not"
    dead = name in GKD_KEYS and name not in METHOD_KEYS[method]
    dead |= name == "stock_normalization" and method != "gkd"
    dead |= name.startswith("teacher.") and method == "sft"
    if dead:
        return f"{name!r} has no effect in an arm of method {method}"
    return None


def collect_setting_problems(problems: Problems, method: Method, values: dict[str, Any]) -> None:
    """Check an arm's fixed settings and note each problem at its name."""
    for name, value in values.items():
        if message := check_setting(method, name, value, searched=False):
            problems.add((name,), message)


def unknown_name(name: str, known: list[str]) -> str:
    """Return the message for a key that does not exist, with the likeliest meant one."""
    if meant := likely_meant(name, known):
        return f"unknown key {name!r}; did you mean {meant!r}?"
    return f"unknown key {name!r}; expected one of {', '.join(known)}"


def likely_meant(name: str, known: list[str]) -> str | None:
    """Return the known key that ``name`` resembles, or that other tools call so."""
    if (ours := OTHER_SPELLINGS.get(name)) and (ours in known or "NAME" in ours):
        return ours
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return close[0] if close else None
