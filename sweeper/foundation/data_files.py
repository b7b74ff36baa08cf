"""Local files of rows, read by what is in them: one reader for every command and every suite.

Nothing is kept between two readings: the same name and the same date may hold other rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sweeper.foundation.data_folders import COLUMNAR, DELIMITERS, JSON, row_files, suffix_of
from sweeper.foundation.data_json import json_rows
from sweeper.foundation.data_streams import decoded, opened
from sweeper.foundation.data_tables import cells, columnar
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
    columnar files are left out, because there every row has every key. Files are read as rows are
    asked for, but for JSON that does not stand one row a line, and compressed columnar files: those
    are read whole.

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


def _read_file(path: Path, field: str | None) -> Iterator[tuple[int | None, Row]]:
    """Yield the rows of a file with the lines that they begin in."""
    suffix = suffix_of(path.name)
    if field is not None and suffix not in JSON:
        raise BadInputError(f"expected a JSON file, whose key {field!r} holds the rows, not {path}")
    if suffix in COLUMNAR:
        yield from ((None, row) for row in columnar(path, suffix))
        return
    delimiter = DELIMITERS.get(suffix)
    newline = "\n" if delimiter is None else ""
    with opened(path) as stream, decoded(path, stream, newline) as text:
        if delimiter is None:
            yield from json_rows(path, text, field)
        else:
            yield from cells(path, text, delimiter)
