"""Placeholders for what ``sweeper init`` cannot find out, and a user has to write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sweeper.config.base import KeyPath, short
from sweeper.config.yaml_file import YamlFile
from sweeper.foundation.errors import Problem

FILL_IN = "FILL-IN"
"""Beginning of a placeholder."""


def left_over(file: YamlFile) -> list[Problem]:
    """Return a problem for each placeholder that a file still has."""
    return [
        file.problem(key, f"expected a value of your own, found the placeholder {short(text)}")
        for key, text in _texts(file.values, ())
        if text.startswith(FILL_IN)
    ]


def _texts(value: Any, key: KeyPath, above: tuple[int, ...] = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield every text in a value; an alias of what it stands in is not followed."""
    if isinstance(value, str):
        yield key, value
    if not isinstance(value, dict | list) or id(value) in above:
        return
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in inside:
        step = str(name) if isinstance(value, dict) else name
        yield from _texts(inner, (*key, step), (*above, id(value)))
