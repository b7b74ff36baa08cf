"""Where studies are recorded, and which names are safe as parts of a path."""

from __future__ import annotations

import re
from pathlib import Path

DEFAULT_RUNS = Path("runs")
"""Folder in which studies are recorded unless a command names another."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Pattern of the names of studies, arms and suites: such a name is safe as a file name."""

_RESERVED_NAMES = re.compile(r"mlflow\.db(-\w+)?|mlflow-artifacts", re.IGNORECASE)


def is_name(text: str) -> bool:
    """Return True if ``text`` may name a study, an arm or a suite: it becomes part of a path."""
    return re.fullmatch(NAME_PATTERN, text) is not None


def is_reserved(name: str) -> bool:
    """Return True if a file of ``runs`` has this name on some file system: no study may."""
    return _RESERVED_NAMES.fullmatch(name) is not None
