"""Rows of JSON files: objects after one another, a list of them, or an object that holds one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from sweeper.foundation.data_folders import first_line, shortened, suffix_of
from sweeper.foundation.errors import BadInputError

Row = dict[str, Any]
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class HeldRowsError(BadInputError):
    """A JSON file holds one object, in which the rows are at one of ``keys``."""

    def __init__(self, message: str, keys: Sequence[str]) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


class _Value(NamedTuple):
    """A value of a JSON file."""

    line: int | None
    value: Any
    escaped: bool
    """True if its text may have halves of surrogate pairs."""


def json_rows(path: Path, text: IO[str], field: str | None) -> Iterator[tuple[int | None, Row]]:
    """Yield the rows of a JSON file with the lines that they begin in.

    Rows that stand one a line are read as they are asked for. Any other file is read whole.

    Raises:
        BadInputError: It is no such file; names the line or the row.
    """
    values = _values(path, text)
    first = list(islice(values, 2))
    only = first[0].value if len(first) == 1 else None
    rows: Iterable[_Value] = chain(first, values)
    if field is not None:
        holder = only if isinstance(only, dict) else {}
        if not isinstance(held := holder.get(field), list):
            known = ", ".join(map(str, holder)) or "no keys"
            raise BadInputError(f"{path}: no list of rows at the key {field!r}, only {known}")
        rows = (_Value(None, row, first[0].escaped) for row in held)
    elif isinstance(only, list):
        rows = (_Value(None, row, first[0].escaped) for row in only)
    elif keys := _holders(only):
        named = " or ".join(f"field: {key}" for key in keys)
        message = f"{path} holds one object, whose rows are in {', '.join(keys)}: write {named}"
        raise HeldRowsError(f"{message} next to path", keys)
    elif isinstance(only, dict) and _is_columns(only):
        raise BadInputError(
            f"{path} holds one object of columns ({', '.join(map(str, only))}), not rows: write one"
            " object for each row, in pandas with to_json(PATH, orient='records', lines=True)"
        )
    for number, (line, row, escaped) in enumerate(rows, start=1):
        where = path if line is None else f"{path}:{line}"
        if not isinstance(row, dict):
            raise BadInputError(
                f"{where}: expected a mapping as row {number}, found {shortened(row)}"
            )
        if escaped:
            _check_characters(where, number, row)
        yield line, row


def _check_characters(where: object, number: int, row: Row) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadInputError(
            f"{where}: row {number} holds half of a surrogate pair (\\ud800 to \\udfff), which"
            " is no text: remove it, or write the whole character"
        ) from None


def _holders(value: Any) -> list[str]:
    """Return the keys of an object that hold lists of rows; none if it is a row itself."""
    if not isinstance(value, dict):
        return []
    lists = {
        str(key): inner
        for key, inner in value.items()
        if isinstance(inner, list) and inner and all(isinstance(item, dict) for item in inner)
    }
    chats = any({"role", "from"} & set(item) for inner in lists.values() for item in inner)
    return [] if chats else list(lists)


def _is_columns(value: Row) -> bool:
    """Return whether an object holds columns: lists of one length, or pandas' cells by index."""
    if len(value) < 2:
        return False
    columns = list(value.values())
    if all(isinstance(column, list) and column for column in columns):
        inner = any(isinstance(cell, dict) for column in columns for cell in column)
        return not inner and len({len(column) for column in columns}) == 1
    pandas = all(isinstance(column, dict) and "0" in column for column in columns)
    return pandas and len({tuple(column) for column in columns}) == 1


def _values(path: Path, text: IO[str]) -> Iterator[_Value]:
    """Return the values of a JSON file: each line's, or the whole file's."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    seen: list[str] = []
    # Only \n ends a line: other signs that Unicode counts as ends may stand inside a text.
    for line in text:
        seen.append(line)
        if line.strip():
            break
    first = seen[-1].strip() if seen else ""
    by_line = first.startswith("{") and len(first) > 1
    if by_line and suffix_of(path.name) == ".json":
        by_line = False
        with suppress(ValueError, RecursionError):
            decoder.decode(first)
            by_line = True
    if by_line:
        return _values_of_lines(path, chain(seen, text), decoder)
    return _values_of_text(path, "".join(seen) + text.read(), decoder)


def _values_of_lines(
    path: Path, lines: Iterable[str], decoder: json.JSONDecoder
) -> Iterator[_Value]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                value = decoder.decode(line.removesuffix("\n"))
            except json.JSONDecodeError as error:
                cause = f"{error.msg} (column {error.colno})"
                raise BadInputError(f"{path}:{number}: not valid JSON: {cause}") from None
            except (ValueError, RecursionError) as error:
                cause = first_line(error)
                raise BadInputError(f"{path}:{number}: not valid JSON: {cause}") from None
            yield _Value(number, value, _SURROGATE.search(line) is not None)


def _values_of_text(path: Path, text: str, decoder: json.JSONDecoder) -> Iterator[_Value]:
    escaped = _SURROGATE.search(text) is not None
    position, line, counted = _skip(text, 0), 1, 0
    while position < len(text):
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            cause = f"{error.msg} (column {error.colno})"
            raise BadInputError(f"{path}:{error.lineno}: not valid JSON: {cause}") from None
        except (ValueError, RecursionError) as error:
            cause = first_line(error)
            raise BadInputError(f"{path}:{line}: not valid JSON: {cause}") from None
        position = _skip(text, position)
        yield _Value(line, value, escaped)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _object(pairs: list[tuple[str, Any]]) -> Row:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        again = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {again!r} stands twice in one object")
    return made
