"""What ``sweeper init`` could not know, and a user has to write in its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sweeper.config.base import short
from sweeper.config.yaml_file import KeyPath, YamlFile
from sweeper.errors import Problem

FILL_IN = "FILL-IN"
"""How a placeholder begins."""


def left_over(file: YamlFile) -> list[Problem]:
    """The placeholders that a file still has, each at its place."""
    return [
        file.problem(key, f"expected a value of your own, found the placeholder {short(text)}")
        for key, text in _texts(file.values, ())
        if text.startswith(FILL_IN)
    ]


def _texts(value: Any, key: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, (*key, str(name)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*key, index))
