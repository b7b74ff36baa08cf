"""Rows of the training data with their places, and those that cannot be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from sweeper.config import builtin
from sweeper.config.columns import ColumnsConfig, guess_columns_of, unknown_columns
from sweeper.config.data import DataConfig, DatasetConfig
from sweeper.foundation import data_files
from sweeper.foundation.data_files import Place
from sweeper.foundation.data_folders import check_split, kept_of_a_folder
from sweeper.foundation.data_tables import without_null
from sweeper.foundation.errors import BadInputError, blaming

Row = dict[str, Any]
_SOME = 4096
"""Rows of a data set on the hub that are converted at a time."""


class RefusedRows:
    """Rows that cannot be used: the first one's error is raised, with the number of the others."""

    def __init__(self) -> None:
        self.count = 0
        self._first: BadInputError | None = None

    @contextmanager
    def noting(self, place: object) -> Iterator[None]:
        """Note bad input of the row at ``place`` in the block."""
        try:
            yield
        except BadInputError as error:
            self._note(error)
        except RecursionError:
            self._note(BadInputError(f"expected values that are not nested so deeply in {place}"))

    def _note(self, error: BadInputError) -> None:
        self.count += 1
        self._first = self._first or error

    def raise_if_any(self, total: int) -> None:
        """Raise the first row's error, with how many of ``total`` rows have one.

        Raises:
            BadInputError: A row was noted.
        """
        if self._first is not None:
            message = f"{self._first}; {self.count:,} of {total:,} rows cannot be used"
            raise BadInputError(message, self._first.key) from self._first


@contextmanager
def placed(place: object) -> Iterator[None]:
    """Put the row's ``place`` before the message of bad input in the block."""
    try:
        yield
    except BadInputError as error:
        raise BadInputError(f"{place}: {error}", error.key) from error


def read_rows(data: DataConfig, files: Sequence[str]) -> tuple[list[Row], list[Place]]:
    """Read the rows of the training data, and where each stands.

    Of local files, no row past the study's ``limit`` is read. ``files`` is the absolute path of a
    local file or folder; empty for other sources.

    Raises:
        BadInputError: They cannot be read, or there are none.
    """
    source = data.train
    if files:
        with blaming("data", "train", "path"):
            placed = list(islice(_of_files(source, files), source.limit))
        rows, places = [row for _, row in placed], [place for place, _ in placed]
    else:
        read = _rows_of_builtin if source.path.startswith("builtin/") else _of_hub
        rows = read(source)[: source.limit]
        places = [Place(source.path, number) for number in range(1, len(rows) + 1)]
    if not rows:
        message = f"expected rows, found none in {source.path} (split {source.split})"
        raise BadInputError(message, ("data", "train", "path"))
    return rows, places


def _of_files(source: DatasetConfig, files: Sequence[str]) -> Iterator[tuple[Place, Row]]:
    """Yield the rows of local files, with places by the names that the study gives the files."""
    for name in files:
        with blaming("data", "train", "split"):
            check_split(Path(name), source.split)
        shown: dict[str, str] = {}
        for place, row in data_files.read_placed(Path(name), source.split, source.field):
            if place.source not in shown:
                inside = Path(place.source).relative_to(name)
                shown[place.source] = str(Path(source.path) / inside)
            yield place._replace(source=shown[place.source]), row


def columns_of(data: DataConfig, rows: Sequence[Row]) -> ColumnsConfig:
    """Return the columns that the study names, or guess them from all rows.

    Raises:
        BadInputError: They cannot be guessed.
    """
    columns = data.train.columns or guess_columns_of(rows)
    if columns is None:
        message = unknown_columns(data.train.path, rows)
        raise BadInputError(message, ("data", "train", "columns"))
    return columns


@blaming("data", "train", "columns")
def check_named(columns: ColumnsConfig, rows: Sequence[Row], source: str) -> None:
    """Check that columns which single rows may lack are in some row.

    Raises:
        BadInputError: One is in none.
    """
    for name in (columns.tools, columns.system, columns.input):
        if name is not None and not any(name in row for row in rows):
            known = ", ".join(sorted({key for row in rows for key in row}))
            raise BadInputError(f"no column {name!r} in {source}, only {known}")


def _rows_of_builtin(source: DatasetConfig) -> list[Row]:
    try:
        return list(builtin.dataset(source.path.removeprefix("builtin/"), source.split))
    except ValueError as error:
        raise BadInputError(str(error), ("data", "train", "split")) from error


def _of_hub(source: DatasetConfig) -> list[Row]:
    """Read the rows of a data set on the hub, from its cache if there is no network."""
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as READERS

    if source.path in READERS:
        # One of these readers unpickles whatever lies in the working directory.
        message = f"expected the name of a dataset, found {source.path!r}, a kind of file"
        raise BadInputError(message, ("data", "train", "path"))
    if source.field is not None:
        message = f"expected a JSON file, whose key {source.field!r} holds the rows"
        raise BadInputError(message, ("data", "train", "field"))
    try:
        loaded = datasets.load_dataset(
            source.path, source.name, split=source.split, revision=source.revision
        )
    except Exception as error:  # the library raises its own kinds for every format
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        message = (
            f"cannot read the data {source.path}: there is no such file or folder, and as a data"
            f" set on the hub: {reason}"
        )
        raise BadInputError(message, ("data", "train", "path")) from error
    if kept := kept_of_a_folder(file["filename"] for file in loaded.cache_files):
        message = (
            f"expected a file, a folder or a data set on the hub, found no {source.path}; only the"
            f" cache of the library datasets has rows of another folder of this name, in {kept}"
        )
        raise BadInputError(message, ("data", "train", "path"))
    rows = len(loaded) if source.limit is None else min(source.limit, len(loaded))
    # Arrow has every key in every row; those that a value lacks are null.
    return [
        {key: without_null(value) for key, value in row.items()}
        for start in range(0, rows, _SOME)
        for row in loaded.select(range(start, min(start + _SOME, rows))).to_list()
    ]
