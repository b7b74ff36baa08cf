"""The notice of a study that allowed code from outside to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.config.models import START
from sweeper.reporting.text import formatting
from sweeper.reporting.text.terminal_escape import visible


def outside_code(config: Mapping[str, Any]) -> list[str]:
    """Return the study's keys that let code from outside run, each with whose code that is."""
    keys = []
    arms = config.get("arms") or {}
    for role in ("teacher", "student"):
        model = config.get(role) or {}
        if model.get("trust_remote_code") is not True:
            continue
        models = [str(model.get("model"))]
        if role == "teacher":  # An arm may name its own.
            for arm in arms.values():
                own = (arm or {}).get("settings") or {}
                searched = (arm or {}).get("search") or {}
                named = [own["teacher.model"]] if "teacher.model" in own else []
                named += (searched.get("teacher.model") or {}).get("choices", ())
                models += [str(name) for name in named if name != START]
        shown = formatting.listed(dict.fromkeys(visible(name) for name in models))
        keys.append(f"{role}.trust_remote_code (the code of {shown})")
    if (config.get("evaluation") or {}).get("allow_code_execution") is True:
        keys.append("evaluation.allow_code_execution (what students answer)")
    return keys
