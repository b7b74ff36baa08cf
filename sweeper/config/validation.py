"""Checked values of a file, or everything that is wrong with them, each at its place."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sweeper.config.base import KeyPath, expectation, short
from sweeper.config.names import NAME_PATTERN
from sweeper.config.unknown_keys import likely_meant, unknown_name
from sweeper.config.yaml_file import YamlFile
from sweeper.foundation.errors import Problem
from sweeper.foundation.secrets import is_secret_name

Model = TypeVar("Model", bound=BaseModel)
_MISSING = "required, but missing"
_SPACE_TYPES = "'float', 'int', 'categorical'"
_SCALARS = ("bool", "int", "float", "str")


def validate(model: type[Model], file: YamlFile, problems: list[Problem]) -> Model | None:
    """Return the file's values as a ``model``, or None and add to ``problems`` what is wrong."""
    try:
        return model.model_validate(file.values)
    except ValidationError as error:
        problems.extend(_problems(model, file, error))
        return None


def value_at(values: Any, key: KeyPath) -> Any:
    """Return the value at ``key``, or None."""
    for part in key:
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _problems(model: type[Model], file: YamlFile, error: ValidationError) -> Iterator[Problem]:
    expected: dict[KeyPath, list[str]] = {}
    found: list[tuple[KeyPath, str | None, Any]] = []
    meant: set[KeyPath] = set()
    """Keys that stand in the file under a misspelt name."""
    every = error.errors(include_url=False)
    for details in every:
        if details["type"] == "too_short" and any(_is_below(other, details) for other in every):
            continue  # Entries that are wrong are not counted; they have messages of their own.
        path, parent = _follow(model, details["loc"])
        message = _message(details, parent)
        if details["type"] == "extra_forbidden" and _is_model(parent):
            name = likely_meant(str(path[-1]), list(parent.model_fields))
            meant.add((*path[:-1], name or ""))
        if message is None:
            # Each member of a union says what it expects; together they are one message.
            expected.setdefault(path, []).append(expectation(details))
            if len(expected[path]) > 1:
                continue
        if details["type"].startswith("union_tag") and value_at(file.values, (*path, "type")):
            path = (*path, "type")
        found.append((path, message, details["input"]))
    for path, message, value in found:
        if message == _MISSING and path in meant:
            continue
        if message is None:
            wanted = list(dict.fromkeys(expected[path]))
            secret = any(is_secret_name(str(part)) for part in path)
            shown = "something else" if secret else short(value)
            message = f"expected {' or '.join(wanted)}, found {shown}"
        yield file.problem(path, message)


def _is_below(inner: ErrorDetails, outer: ErrorDetails) -> bool:
    depth = len(outer["loc"])
    return len(inner["loc"]) > depth and inner["loc"][:depth] == outer["loc"]


def _message(details: ErrorDetails, parent: Any) -> str | None:
    """Return the message, or None where expected and found values make it."""
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        known = list(parent.model_fields) if _is_model(parent) else []
        return unknown_name(str(details["loc"][-1]), known)
    if kind == "missing":
        return _MISSING
    if kind in ("sweeper", "not_json"):
        return details["msg"]
    if kind == "recursion_loop":
        return "expected a value that does not contain itself"
    if kind == "invalid_key":
        return f"expected a key that is a string, found {short(details['loc'][-1])}"
    if kind.startswith("union_tag"):
        tags = details.get("ctx", {}).get("expected_tags", _SPACE_TYPES)
        tag = value.get("type") if isinstance(value, dict) else value
        rule = tags if tag is not None else f"a mapping with type: {tags}"
        return f"expected {rule}, found {short(value if tag is None else tag)}"
    if details.get("ctx", {}).get("pattern") == NAME_PATTERN:
        rule = "a name of letters, digits, '.', '_' and '-', at most 64, the first no sign"
        return f"expected {rule}, found {short(value)}"
    return None


def _follow(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[KeyPath, Any]:
    """Turn pydantic's location into a key path, and find the model that holds its last key.

    Pydantic puts the tag or the class of a union's member into the location; no file has such a
    key.
    """
    path: list[str | int] = []
    here: Any = model
    holder: Any = model
    for part in location:
        if part == "[key]":
            continue
        if _is_model(here) and not isinstance(part, int):
            holder = here
            field = here.model_fields.get(part)
            path.append(part)
            here = _plain(field.annotation) if field else None
            continue
        members = [_plain(member) for member in get_args(here)] if _is_union(here) else []
        named = [m for m in members if _member_name(m, part)]
        if named:
            here = named[0]
        elif members and (
            mapping := [m for m in members if _is_model(m) and part in m.model_fields]
        ):
            here = _plain(mapping[0].model_fields[part].annotation)
            holder = mapping[0]
            path.append(part)
        elif members and isinstance(part, str) and ("[" in part or part in _SCALARS):
            container = part.partition("[")[0]
            named = [m for m in members if getattr(get_origin(m), "__name__", "") == container]
            here = named[0] if named else here
        else:
            arguments = get_args(here)
            path.append(part)
            holder = here
            here = (
                _plain(arguments[-1] if get_origin(here) is dict else arguments[0])
                if arguments
                else None
            )
    return tuple(path), holder


def _plain(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if _is_union(annotation):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return _plain(members[0]) if len(members) == 1 else annotation
    return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _member_name(member: Any, part: int | str) -> bool:
    """Return True if ``part`` of a location is this union member's tag or class."""
    if not _is_model(member):
        return False
    tag = member.model_fields.get("type")
    return part == member.__name__ or (tag is not None and part in get_args(tag.annotation))
