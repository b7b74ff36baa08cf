"""Local files of rows, read by what is in them: one reader for every command and every suite.

Nothing is kept between two readings: the same name and the same date may hold other rows.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sweeper.foundation.data_folders import (
    COLUMNAR,
    DELIMITERS,
    JSON,
    UNPACK,
    first_line,
    row_files,
    suffix_of,
)
from sweeper.foundation.errors import BadInputError

Row = dict[str, Any]


class Place(NamedTuple):
    """Where a row stands: its number in a file, and the line that it begins in."""

    source: str
    row: int
    line: int | None = None
    """Line, counted from 1; None in files that have none, and inside a list in a JSON file."""

    def __str__(self) -> str:
        line = f" (line {self.line})" if self.line is not None else ""
        return f"row {self.row} of {self.source}{line}"


class HeldRowsError(BadInputError):
    """A JSON file holds one object, in which the rows are at one of ``keys``."""

    def __init__(self, message: str, keys: Sequence[str]) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


_POINTER = b"version https://git-lfs.github.com/spec/"
_SPACED = re.compile(r'\s+"')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HUGE = 2**31 - 1


def read_rows(place: Path, split: str = "train", field: str | None = None) -> list[Row]:
    """Read the rows of a file or folder, in order; no row is left out.

    ``read_placed`` describes the arguments and errors.
    """
    return [row for _, row in read_placed(place, split, field)]


def read_placed(
    place: Path, split: str = "train", field: str | None = None
) -> Iterator[tuple[Place, Row]]:
    """Yield the rows of a file or folder with their places, in order; no row is left out.

    Cells of csv and tsv files are text, and None if they are empty. Nulls inside the values of
    columnar files are left out, because there every row has every key.

    Args:
        place: A file of rows, a folder of such files, or one of ``save_to_disk``.
        split: Which rows of a folder; a file's are taken as they are.
        field: Key of the list of rows, in a JSON file that holds one object.

    Raises:
        BadInputError: Something cannot be read; names the file, the line or row, and the cause.
    """
    for path in row_files(place, split):
        for number, (line, row) in enumerate(_read_file(path, field), start=1):
            yield Place(str(path), number, line), row


def _read_file(path: Path, field: str | None) -> Iterable[tuple[int | None, Row]]:
    """Return the rows of a file with the lines that they begin in."""
    suffix = suffix_of(path.name)
    if field is not None and suffix not in JSON:
        raise BadInputError(f"expected a JSON file, whose key {field!r} holds the rows, not {path}")
    try:
        content = path.read_bytes()
        if unpack := UNPACK.get(path.suffix.lower()):
            content = unpack(content)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise BadInputError(f"{path} cannot be read: {first_line(error)}") from error
    if content.startswith(_POINTER):
        raise BadInputError(f"{path} is a pointer of Git LFS, without the rows: run git lfs pull")
    if suffix in COLUMNAR:
        return ((None, row) for row in _columnar(path, content, suffix))
    text = _text(path, content)
    if suffix in DELIMITERS:
        return _cells(path, text, DELIMITERS[suffix])
    return _json_rows(path, text, field)


def _text(path: Path, content: bytes) -> str:
    # Without a mark, ASCII signs in UTF-16 have a zero byte before or after them.
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:2]:
        raise BadInputError(
            f"expected UTF-8 text in {path}, found UTF-16: convert it with iconv -f UTF-16 -t UTF-8"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        # Latin-1 has no signs from 0x80 to 0x9f; Windows has quotation marks there.
        kind = "WINDOWS-1252" if re.search(rb"[\x80-\x9f]", content) else "ISO-8859-1"
        raise BadInputError(
            f"{path}:{line}: expected UTF-8 text, found the byte 0x{content[error.start]:02x}: if"
            f" the file is {kind}, convert it with iconv -f {kind} -t UTF-8"
        ) from None


def _json_rows(path: Path, text: str, field: str | None) -> list[tuple[int | None, Row]]:
    """Read a list of rows, one object that holds it, or objects after one another."""
    values = list(_json_values(path, text))
    placed: list[tuple[int | None, Any]] = list(values)
    only = values[0][1] if len(values) == 1 else None
    if field is not None:
        holder = only if isinstance(only, dict) else {}
        if not isinstance(rows := holder.get(field), list):
            known = ", ".join(map(str, holder)) or "no keys"
            raise BadInputError(f"{path}: no list of rows at the key {field!r}, only {known}")
        placed = [(None, row) for row in rows]
    elif isinstance(only, list):
        placed = [(None, row) for row in only]
    elif keys := _holders(only):
        named = " or ".join(f"field: {key}" for key in keys)
        message = f"{path} holds one object, whose rows are in {', '.join(keys)}: write {named}"
        raise HeldRowsError(f"{message} next to path", keys)
    elif isinstance(only, dict) and _is_columns(only):
        raise BadInputError(
            f"{path} holds one object of columns ({', '.join(map(str, only))}), not rows: write one"
            " object for each row, in pandas with to_json(PATH, orient='records', lines=True)"
        )
    for number, (line, row) in enumerate(placed, start=1):
        if not isinstance(row, dict):
            where = path if line is None else f"{path}:{line}"
            raise BadInputError(f"{where}: expected a mapping as row {number}, found {_short(row)}")
    if _SURROGATE.search(text):
        _check_characters(path, placed)
    return placed


def _check_characters(path: Path, placed: Sequence[tuple[int | None, Row]]) -> None:
    for number, (line, row) in enumerate(placed, start=1):
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            where = path if line is None else f"{path}:{line}"
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
    cells = list(value.values())
    if all(isinstance(column, list) and column for column in cells):
        inner = any(isinstance(cell, dict) for column in cells for cell in column)
        return not inner and len({len(column) for column in cells}) == 1
    pandas = all(isinstance(column, dict) and "0" in column for column in cells)
    return pandas and len({tuple(column) for column in cells}) == 1


def _json_values(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Return the values of a JSON file with their lines: each line's, or the whole file's."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    # Only \n ends a line: other signs that Unicode counts as ends may stand inside a text.
    lines = text.split("\n")
    first = next((line.strip() for line in lines if line.strip()), "")
    by_line = first.startswith("{") and len(first) > 1
    if by_line and suffix_of(path.name) == ".json":
        with suppress(ValueError, RecursionError):
            decoder.decode(first)
            return _values_of_lines(path, lines, decoder)
        by_line = False
    if by_line:
        return _values_of_lines(path, lines, decoder)
    return _values_of_text(path, text, decoder)


def _values_of_lines(
    path: Path, lines: Sequence[str], decoder: json.JSONDecoder
) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, decoder.decode(line)
            except json.JSONDecodeError as error:
                cause = f"{error.msg} (column {error.colno})"
                raise BadInputError(f"{path}:{number}: not valid JSON: {cause}") from None
            except (ValueError, RecursionError) as error:
                cause = first_line(error)
                raise BadInputError(f"{path}:{number}: not valid JSON: {cause}") from None


def _values_of_text(path: Path, text: str, decoder: json.JSONDecoder) -> Iterator[tuple[int, Any]]:
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
        yield line, value


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


def _cells(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, Row]]:
    before = csv.field_size_limit(_HUGE)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        first = text.lstrip("\r\n").partition("\n")[0]
        if delimiter == "," and "," not in first and re.search(r"[;\t]", first):
            found = ";" if ";" in first else "a tab"
            raise BadInputError(
                f"{path}:1: expected columns divided by commas, found {found}: save it with commas"
                " (or, divided by tabs, as .tsv)"
            )
        header = next((row for row in reader if row), [])
        if twice := [name for name in header if header.count(name) > 1]:
            raise BadInputError(f"{path}:1: the column {twice[0]!r} stands there twice")
        line = reader.line_num + 1
        for row in reader:
            begin, line = line, reader.line_num + 1
            if not row:
                continue
            spaced = next((cell for cell in row if _SPACED.match(cell)), "")
            if spaced and (len(row) != len(header) or spaced.rstrip().endswith('"')):
                raise BadInputError(
                    f"{path}:{begin}: a space before the quotes of a cell makes them part of its"
                    f" text, found {_short(spaced)}: remove the space"
                )
            if len(row) != len(header):
                raise BadInputError(
                    f"{path}:{begin}: expected {len(header)} cells, found {len(row)}"
                    f" (a {'comma' if delimiter == ',' else 'tab'} inside a cell needs quotes)"
                )
            yield begin, {name: cell or None for name, cell in zip(header, row, strict=True)}
    except csv.Error as error:
        raise BadInputError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None
    finally:
        csv.field_size_limit(before)


def _columnar(path: Path, content: bytes, suffix: str) -> list[Row]:
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    source = pyarrow.BufferReader(content)
    try:
        if suffix == ".parquet":
            table = pyarrow.parquet.read_table(source)
        elif content.startswith((b"ARROW1", b"FEA1")):
            import pyarrow.feather

            table = pyarrow.feather.read_table(source)
        else:
            table = pyarrow.ipc.open_stream(source).read_all()
        # A damaged file may name places outside of itself.
        table.validate(full=True)
        if twice := [name for name in table.column_names if table.column_names.count(name) > 1]:
            raise ValueError(f"the column {twice[0]!r} stands there twice")
        rows: list[Row] = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read: {first_line(error)}") from error
    # Every row has every key there; those that a value lacks are null.
    return [{key: without_null(value) for key, value in row.items()} for row in rows]


def without_null(value: Any) -> Any:
    """Return a value without the nulls in its mappings, at any depth."""
    if isinstance(value, dict):
        return {key: without_null(inner) for key, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
