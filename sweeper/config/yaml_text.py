"""Values as YAML for people: block style, short mappings in one line, comments next to keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sweeper.config.yaml_file import parse
from sweeper.foundation.errors import ConfigError

WIDTH = 100
"""Columns of a line."""

_PLAIN = re.compile(r"[A-Za-z0-9_./][\w./+@-]*(?::[\w./+@-]+)*")
"""Text that may need no quotes; whether it does is known when it is read."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")

Comments = Mapping[tuple[str, ...], str]
"""Comments by key path: next to the key where one fits in a line, else above it."""


def yaml_text(values: Mapping[str, Any], comments: Comments | None = None, *, flow: int = 3) -> str:
    """Return the values as a document.

    Args:
        values: Mappings, lists and scalars.
        comments: Comments on keys.
        flow: Depth from which mappings of scalars are written in one line; keys of the document
            have depth 1.
    """
    return "".join(f"{line}\n" for line in _block(values, (), comments or {}, flow))


def commented(text: str) -> str:
    """Return ``text`` as comment lines."""
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())


def flow_text(value: Any) -> str:
    """Return a value in one line, as it may stand inside another."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{flow_text(str(key))}: {flow_text(v)}" for key, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow_text, value))}]"
    if isinstance(value, float):
        # YAML 1.1, which other tools read, takes 1e-05 for text.
        text = re.sub(r"e([+-])0", r"e\1", repr(value))
        return re.sub(r"^(-?\d+)e", r"\1.0e", text).replace("inf", ".inf").replace("nan", ".nan")
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    return json.dumps(value)


def _block(
    values: Mapping[str, Any], path: tuple[str, ...], comments: Comments, flow: int
) -> Iterator[str]:
    indent = "  " * len(path)
    for key, value in values.items():
        here = (*path, str(key))
        comment = comments.get(here, "")
        name = f"{indent}{flow_text(str(key))}:"
        if isinstance(value, Mapping) and value and not _fits(name, value, here, comments, flow):
            lines = [name, *_block(value, here, comments, flow)]
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            lines = [name, *_items(value, here, comments, flow)]
        else:
            lines = [f"{name} {flow_text(value)}"]
        if not path and len(lines) > 1 and key != next(iter(values)):
            yield ""
        line = f"{lines[0]}  # {comment}"
        if comment and "\n" not in comment and len(line) <= WIDTH:
            lines[0] = line
        elif comment:
            yield from (f"{indent}# {line}" for line in comment.splitlines())
        yield from lines


def _items(
    values: list[Any] | tuple[Any, ...], path: tuple[str, ...], comments: Comments, flow: int
) -> Iterator[str]:
    indent = "  " * len(path)
    for index, value in enumerate(values):
        if not isinstance(value, Mapping) or not value:
            yield f"{indent}- {flow_text(value)}"
            continue
        for number, line in enumerate(_block(value, (*path, str(index)), comments, flow)):
            yield f"{indent}- {line.lstrip()}" if number == 0 else line


def _fits(
    name: str, value: Mapping[str, Any], path: tuple[str, ...], comments: Comments, flow: int
) -> bool:
    """Return True if a mapping is to be written in one line."""
    return (
        len(path) >= flow
        and not any(isinstance(inner, Mapping) for inner in value.values())
        and len(f"{name} {flow_text(value)}") <= WIDTH
        and not any(key[: len(path)] == path for key in comments if len(key) > len(path))
    )


def _is_plain(text: str) -> bool:
    if not _PLAIN.fullmatch(text):
        return False
    try:
        return bool(parse(text, "") == text)
    except ConfigError:
        return False


def _quoted(text: str) -> str:
    escaped = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", escaped)
