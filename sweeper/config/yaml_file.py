"""A YAML file with the place of every key, so that an error can name its line."""

from __future__ import annotations

import warnings
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from sweeper.config.base import KeyPath, short
from sweeper.foundation.errors import ConfigError, Problem

LARGEST_FILE = 2**20
"""Bytes of a study or a suite: a hundred times what people write."""
MOST_VALUES = 100_000
"""Values of a file, those that aliases repeat counted each time."""


@dataclass
class YamlFile:
    """A parsed file: its values, and where each key stands."""

    source: str
    values: dict[str, Any]
    places: dict[tuple[str, ...], tuple[str, int | None, int | None]] = field(default_factory=dict)
    """Source, line and column (from 1) by key path, indices as text; a command-line override has no
    line."""

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Return a problem at ``path``, or at the closest enclosing key that stands in the file."""
        dotted = tuple(map(str, self._as_written(path)))
        for length in range(len(dotted), -1, -1):
            if place := self.places.get(dotted[:length]):
                source, line, column = place
                break
        else:
            source, line, column = self.source, None, None
        return Problem(
            source=source, message=message, path=".".join(dotted), line=line, column=column
        )

    def _as_written(self, path: KeyPath) -> KeyPath:
        """Leave out the index of an entry that stands in the file without a list around it."""
        written: list[str | int] = []
        here: Any = self.values
        for part in path:
            if isinstance(part, int) and isinstance(here, dict) and part not in here:
                continue
            written.append(part)
            if isinstance(here, list) and isinstance(part, int):
                here = here[part] if part < len(here) else None
            else:
                here = here.get(part) if isinstance(here, dict) else None
        return tuple(written)

    def override(self, assignment: str) -> None:
        """Apply ``key.path=value``; the value is read as YAML.

        Raises:
            ConfigError: The assignment has no ``=``, or passes through something that has no keys.
        """
        option = f"--set {assignment}"
        dotted, separator, text = assignment.partition("=")
        names = dotted.strip().split(".")
        if not separator or not all(names):
            raise ConfigError([Problem(source=option, message="expected KEY=VALUE")])
        try:
            value = parse(text, option) if text.strip() else None
        except ConfigError as error:
            # The line and column would be those of a file.
            messages = [problem.message for problem in error.problems]
            raise ConfigError([Problem(source=option, message=m) for m in messages]) from None
        target = self.values
        path: tuple[str, ...] = ()
        while names:
            if not isinstance(target, dict):
                message = f"expected a mapping at {'.'.join(path)!r}, found {short(target)}"
                raise ConfigError([Problem(source=option, message=message)])
            length = _key_length(target, path, names)
            key, names = ".".join(names[:length]), names[length:]
            path = (*path, key)
            if names:
                below = target.get(key)
                # A copy, because an alias would change another key's value too.
                target[key] = {} if below is None else copy(below)
                target = target[key]
            else:
                target[key] = value
        self.places = {p: at for p, at in self.places.items() if p[: len(path)] != path}
        self.places[path] = (option, None, None)


def _key_length(target: dict[str, Any], path: tuple[str, ...], names: list[str]) -> int:
    """Return how many of the dotted ``names`` make the next key: some keys have dots."""
    for length in range(len(names), 1, -1):
        if ".".join(names[:length]) in target:
            return length
    opens_setting = len(path) == 3 and path[0] == "arms" and path[2] in ("settings", "search")
    return len(names) if opens_setting and names[0] not in target else 1


class _Constructor(SafeConstructor):
    """Reports scalars that have no value, such as a 13th month, at their place."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, ArithmeticError) as error:
            message = str(error).partition(";")[0]
            raise ConstructorError(None, None, message, node.start_mark) from error

    def check_mapping_key(
        self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any
    ) -> bool:
        try:
            hash(key)
        except TypeError:  # a list that holds a mapping
            message = "found a key that cannot be one"
            raise ConstructorError(None, None, message, key_node.start_mark) from None
        return bool(super().check_mapping_key(node, key_node, mapping, key, value))


def parse(text: str, source: str) -> Any:
    """Read YAML text, with problems reported at ``source``.

    Raises:
        ConfigError: The text is not YAML, holds a key twice, or nests too deeply.
    """
    return _parse(text, source)[0]


def _parse(text: str, source: str) -> tuple[Any, Node | None]:
    """Return the value, and the tree that has the places."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        with warnings.catch_warnings():
            # YAML lets an anchor stand again; the last one counts.
            warnings.simplefilter("ignore", ReusedAnchorWarning)
            tree = yaml.compose(text)
        _check_size(tree)
        return (None if tree is None else yaml.constructor.construct_document(tree)), tree
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        column = mark.column + 1 if mark else None
        # Of a key that stands twice, it also quotes both values.
        reason = (error.problem or str(error)).strip().partition(" with value ")[0]
        message = f"not valid YAML: {reason}"
        problem = Problem(source=source, message=message, line=line, column=column)
        raise ConfigError([problem]) from error
    except ReaderError as error:
        line, column = _place(text[: text.index(chr(error.character))])
        message = f"not valid YAML: {str(error).splitlines()[0]}"
        problem = Problem(source=source, message=message, line=line, column=column)
        raise ConfigError([problem]) from error
    except (YAMLError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError([Problem(source=source, message=f"not valid YAML: {reason}")]) from error


def read(path: Path) -> YamlFile:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: The file is missing, unreadable, not UTF-8, not YAML, or not a mapping.
    """
    source = str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            message = f"expected at most {LARGEST_FILE // 2**20} MiB, found a larger file"
            raise ConfigError([Problem(source=source, message=message)])
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError([Problem(source=source, message="no such file")]) from None
    except UnicodeDecodeError as error:
        line, column = _place(error.object[: error.start].decode())
        message = f"not UTF-8 text: found the byte 0x{error.object[error.start]:02x}"
        problem = Problem(source=source, message=message, line=line, column=column)
        raise ConfigError([problem]) from None
    except OSError as error:
        raise ConfigError(
            [Problem(source=source, message=f"cannot be read: {error.strerror}")]
        ) from None
    values, tree = _parse(text, source)
    if not isinstance(values, dict):
        found = "nothing" if values is None else short(values)
        message = f"expected a mapping of keys to values, found {found}"
        raise ConfigError([Problem(source=source, message=message, line=1, column=1)])
    file = YamlFile(source=source, values=values)
    file.places[()] = (source, 1, 1)
    _note_places(tree, (), file, seen=set())
    return file


def _check_size(tree: Node | None) -> None:
    """Refuse a file whose aliases make a huge value of a few lines ("a billion laughs").

    Raises:
        ConstructorError: It is too large; names the innermost value that is.
    """
    sizes: dict[int, int] = {}

    def size(node: Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = 1  # what a value that holds itself counts inside itself
            inner: list[Node] = []
            if isinstance(node, MappingNode):
                inner = [part for pair in node.value for part in pair]
            elif isinstance(node, SequenceNode):
                inner = node.value
            sizes[id(node)] = 1 + sum(size(part) for part in inner)
            if sizes[id(node)] > MOST_VALUES:
                message = f"its aliases make more than {MOST_VALUES:,} values of it"
                raise ConstructorError(None, None, message, node.start_mark)
        return sizes[id(node)]

    if tree is not None:
        size(tree)


def _place(before: str) -> tuple[int, int]:
    """Return the line and column, from 1, of what follows ``before``."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _note_places(node: Node | None, path: tuple[str, ...], file: YamlFile, seen: set[int]) -> None:
    # An anchor that is used many times is one node: visiting it once keeps this linear.
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                continue
            child = (*path, key.value)
            file.places[child] = (file.source, key.start_mark.line + 1, key.start_mark.column + 1)
            _note_places(value, child, file, seen)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            child = (*path, str(index))
            file.places[child] = (file.source, item.start_mark.line + 1, item.start_mark.column + 1)
            _note_places(item, child, file, seen)
