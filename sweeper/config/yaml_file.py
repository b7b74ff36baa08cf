"""A YAML file with the place of every key, so that an error can name its line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from sweeper.errors import ConfigError, Problem

KeyPath = tuple[str | int, ...]


@dataclass
class YamlFile:
    """A parsed file: its values, and where each key stands."""

    source: str
    values: dict[str, Any]
    places: dict[KeyPath, tuple[str, int | None, int | None]] = field(default_factory=dict)
    """Source, line and column (from 1) by key path; a command-line override has no line."""

    def problem(self, path: KeyPath, message: str) -> Problem:
        """A problem at ``path``, or at the closest enclosing key that stands in the file."""
        for length in range(len(path), -1, -1):
            if place := self.places.get(path[:length]):
                source, line, column = place
                break
        else:
            source, line, column = self.source, None, None
        dotted = ".".join(str(part) for part in path)
        return Problem(source=source, message=message, path=dotted, line=line, column=column)

    def override(self, assignment: str) -> None:
        """Apply ``key.path=value``; the value is read as YAML.

        Raises:
            ConfigError: The assignment has no ``=``, or passes through something that has no keys.
        """
        option = f"--set {assignment}"
        dotted, separator, text = assignment.partition("=")
        if not separator or not dotted.strip():
            raise ConfigError([Problem(source=option, message="expected KEY=VALUE")])
        value = parse(text, option) if text.strip() else None
        keys = dotted.strip().split(".")
        target = self.values
        for depth, key in enumerate(keys):
            if not isinstance(target, dict):
                message = f"expected a mapping at {'.'.join(keys[:depth])!r}, found {target!r}"
                raise ConfigError([Problem(source=option, message=message)])
            # Settings may have dots in their own names: `arms.gkd.settings.lora.r`.
            if depth >= 3 and keys[0] == "arms" and keys[2] in ("settings", "search"):
                name = ".".join(keys[depth:])
                target[name] = value
                self.places[(*keys[:depth], name)] = (option, None, None)
                return
            if depth == len(keys) - 1:
                target[key] = value
            else:
                if target.get(key) is None:
                    target[key] = {}
                target = target[key]
        self.places[tuple(keys)] = (option, None, None)


def parse(text: str, source: str) -> Any:
    """Read YAML text, with problems reported at ``source``.

    Raises:
        ConfigError: The text is not YAML, holds a key twice, or nests too deeply.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        column = mark.column + 1 if mark else None
        message = f"not valid YAML: {(error.problem or str(error)).strip()}"
        problem = Problem(source=source, message=message, line=line, column=column)
        raise ConfigError([problem]) from error
    except (YAMLError, ValueError, RecursionError, ArithmeticError) as error:
        message = (
            f"not valid YAML: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        )
        raise ConfigError([Problem(source=source, message=message)]) from error


def read(path: Path) -> YamlFile:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: The file is missing, unreadable, not UTF-8, not YAML, or not a mapping.
    """
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([Problem(source=source, message="no such file")]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(source=source, message=f"not UTF-8 text: {error}")]) from None
    except OSError as error:
        raise ConfigError(
            [Problem(source=source, message=f"cannot be read: {error.strerror}")]
        ) from None
    values = parse(text, source)
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        message = f"expected a mapping of keys to values, found {found}"
        raise ConfigError([Problem(source=source, message=message, line=1, column=1)])
    file = YamlFile(source=source, values=values)
    file.places[()] = (source, 1, 1)
    root = YAML(typ="safe", pure=True).compose(text)
    _note_places(root, (), file, seen=set())
    return file


def _note_places(node: Node, path: KeyPath, file: YamlFile, seen: set[int]) -> None:
    # An anchor that is used many times is one node: visiting it once keeps this linear.
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, MappingNode):
        for key, value in node.value:
            child = (*path, key.value)
            file.places[child] = (file.source, key.start_mark.line + 1, key.start_mark.column + 1)
            _note_places(value, child, file, seen)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            child = (*path, index)
            file.places[child] = (file.source, item.start_mark.line + 1, item.start_mark.column + 1)
            _note_places(item, child, file, seen)
