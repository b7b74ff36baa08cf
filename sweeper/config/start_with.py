"""Settings that an arm's search starts with: given in the file, or an earlier study's best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from sweeper.config.base import Name, PositiveInt, Problems, Scalar, Strict, short
from sweeper.config.settings import Method, MethodSettings, deciding, is_dead, is_setting
from sweeper.config.space import AnySpace, as_sampled
from sweeper.config.unknown_keys import unknown_name


class EarlierStudyConfig(Strict):
    """The best trials of an arm of an earlier study."""

    study: Annotated[str, Field(min_length=1)]
    """The study: its file, its folder below `runs`, or its report's folder or `records.json.gz`."""
    best: PositiveInt = 1
    """Number of trials, the best by that study's selection suite, with settings that differ."""
    arm: Name | None = None
    """Arm of that study; by default the one of the same name."""


def _kind(entry: Any) -> str:
    """Return the tag of an entry, in the form that messages leave out of a key's path."""
    if isinstance(entry, dict):
        return "EarlierStudyConfig" if {"study", "best"} & entry.keys() else "dict[]"
    return "EarlierStudyConfig" if isinstance(entry, EarlierStudyConfig) else "dict[]"


StartEntry = Annotated[
    Annotated[EarlierStudyConfig, Tag("EarlierStudyConfig")]
    | Annotated[dict[str, Scalar], Tag("dict[]")],
    Discriminator(_kind),
]


def check_entries(
    entries: tuple[StartEntry, ...],
    method: Method,
    settings: Mapping[str, Any],
    search: Mapping[str, AnySpace],
) -> tuple[StartEntry, ...]:
    """Return the entries with their values as the arm's search would sample them.

    Raises:
        ValidationError: The arm cannot run them; names every problem.
    """
    problems = Problems()
    if entries and not search:
        message = "has no effect: the arm searches nothing; fix values in its settings"
        problems.add((), message)
        problems.raise_if_any()
    checked: list[StartEntry] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            entry, wrong = check_given(entry, method, settings, search)
            for name, message in wrong:
                problems.add((index, *name), message)
            # 1 and true are equal values, but not in one space.
            if entry and not wrong and entry in checked:
                message = f"expected other settings than entry {checked.index(entry) + 1}"
                problems.add((index,), f"{message}, found the same again")
        checked.append(entry)
    problems.raise_if_any()
    return tuple(checked)


def check_given(
    given: Mapping[str, Scalar],
    method: Method,
    settings: Mapping[str, Any],
    search: Mapping[str, AnySpace],
) -> tuple[dict[str, Scalar], list[tuple[tuple[str, ...], str]]]:
    """Return given settings as the search would sample them, and what is wrong, with its key.

    Args:
        given: Some or all of the searched settings.
        method: The arm's method.
        settings: What the arm fixes.
        search: The arm's space.
    """
    values: dict[str, Scalar] = {}
    wrong: list[tuple[tuple[str, ...], str]] = []
    if not given:
        wrong.append(((), "expected at least one setting, found none"))
    for name, value in given.items():
        if name in search:
            try:
                values[name] = as_sampled(search[name], value)
            except ValueError as error:
                wrong.append(
                    ((name,), f"{error}, as the arm's search has it, found {short(value)}")
                )
        elif is_setting(name):
            why = "is fixed in the arm's settings" if name in settings else "is not searched here"
            message = f"{name!r} {why}; expected only what the arm searches: {', '.join(search)}"
            wrong.append(((name,), message))
        else:
            wrong.append(((name,), unknown_name(name, list(search))))
    for name in values:
        if without := _dead(name, method, {**settings, **values}, search):
            wrong.append(((name,), without))
    return values, wrong


def _dead(
    name: str, method: Method, values: Mapping[str, Any], search: Mapping[str, AnySpace]
) -> str | None:
    """Say why a given setting has no effect, or may have none; None if it always has."""
    cause = deciding(name)
    if cause not in search or cause in values:
        at = short(values.get(cause, MethodSettings.model_fields[cause].default))
        return f"{name!r} has no effect at {cause}: {at}" if is_dead(method, name, values) else None
    for value in search[cause].grid() or ():
        if is_dead(method, name, {**values, cause: value}):
            return f"expected {cause} next to it: {name!r} has no effect at {cause}: {value}"
    return None
