"""Rows of csv and tsv files, and of columnar ones, a part at a time."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from sweeper.foundation.data_folders import first_line, shortened
from sweeper.foundation.data_streams import is_packed, opened
from sweeper.foundation.errors import BadInputError

Row = dict[str, Any]
_SPACED = re.compile(r'\s+"')
_HUGE = 2**31 - 1
_BATCH = 1024
"""Rows of a parquet file that are decoded at a time."""


def cells(path: Path, text: IO[str], delimiter: str) -> Iterator[tuple[int, Row]]:
    """Yield the records of a csv file with the lines that they begin in.

    Raises:
        BadInputError: It is no such file; names the line.
    """
    # Several files may be read in turns: it stays so.
    csv.field_size_limit(_HUGE)
    try:
        seen: list[str] = []
        for line in text:
            seen.append(line)
            if line.strip("\r\n"):
                break
        reader = csv.reader(chain(seen, text), delimiter=delimiter, strict=True)
        first = seen[-1].rstrip("\r\n") if seen else ""
        if delimiter == "," and "," not in first and re.search(r"[;\t]", first):
            found = ";" if ";" in first else "a tab"
            raise BadInputError(
                f"{path}:1: expected columns divided by commas, found {found}: save it with commas"
                " (or, divided by tabs, as .tsv)"
            )
        header = next((row for row in reader if row), [])
        if twice := [name for name in header if header.count(name) > 1]:
            raise BadInputError(f"{path}:1: the column {twice[0]!r} stands there twice")
        number = reader.line_num + 1
        for row in reader:
            begin, number = number, reader.line_num + 1
            if not row:
                continue
            spaced = next((cell for cell in row if _SPACED.match(cell)), "")
            if spaced and (len(row) != len(header) or spaced.rstrip().endswith('"')):
                raise BadInputError(
                    f"{path}:{begin}: a space before the quotes of a cell makes them part of its"
                    f" text, found {shortened(spaced)}: remove the space"
                )
            if len(row) != len(header):
                raise BadInputError(
                    f"{path}:{begin}: expected {len(header)} cells, found {len(row)}"
                    f" (a {'comma' if delimiter == ',' else 'tab'} inside a cell needs quotes)"
                )
            yield begin, {name: cell or None for name, cell in zip(header, row, strict=True)}
    except csv.Error as error:
        raise BadInputError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None


def columnar(path: Path, suffix: str) -> Iterator[Row]:
    """Yield the rows of a parquet, arrow or feather file.

    Raises:
        BadInputError: It cannot be read.
    """
    import pyarrow

    with opened(path) as stream:
        start = stream.peek(8)[:8]
        content = stream.read() if is_packed(path) else None
    batches = _of_parquet if suffix == ".parquet" else _of_arrow
    try:
        # What is not compressed is mapped: only what is read comes into memory.
        whole = pyarrow.memory_map(str(path)) if content is None else pyarrow.BufferReader(content)
        with whole as source:
            for batch in batches(source, start):
                # A damaged file may name places outside of itself.
                batch.validate(full=True)
                # Every row has every key there; those that a value lacks are null.
                for row in batch.to_pylist():
                    yield {key: without_null(value) for key, value in row.items()}
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read: {first_line(error)}") from error


def _of_parquet(source: Any, start: bytes) -> Iterator[Any]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(source)
    _check_names(file.schema_arrow.names)
    yield from file.iter_batches(batch_size=_BATCH)


def _of_arrow(source: Any, start: bytes) -> Iterator[Any]:
    import pyarrow
    import pyarrow.feather
    import pyarrow.ipc

    if start.startswith(b"FEA1"):
        table = pyarrow.feather.read_table(source)
        _check_names(table.column_names)
        yield from table.to_batches()
        return
    if start.startswith(b"ARROW1"):
        reader = pyarrow.ipc.open_file(source)
        _check_names(reader.schema.names)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        reader = pyarrow.ipc.open_stream(source)
        _check_names(reader.schema.names)
        yield from reader


def _check_names(names: list[str]) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the column {twice[0]!r} stands there twice")


def without_null(value: Any) -> Any:
    """Return a value without the nulls in its mappings, at any depth."""
    if isinstance(value, dict):
        return {key: without_null(inner) for key, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value
