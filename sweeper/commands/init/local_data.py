"""A local data file as a study's data: its rows, and those that are held out for scoring."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.config.base import short
from sweeper.config.columns import ColumnsConfig, guess_columns, unknown_columns, with_input
from sweeper.foundation.errors import ConfigError, Problem

FEWEST_PROMPTS = 20
"""Number of prompts from which on some are held out."""
_SELECTION, _TEST = (200, 0.1), (400, 0.2)
"""Largest number of held-out prompts, and their largest share."""


@dataclass(frozen=True)
class HeldOut:
    """Rows divided so that no prompt is in two places."""

    train: tuple[dict[str, Any], ...]
    """Rows as they are in the file."""
    selection: tuple[tuple[str, str], ...]
    """Prompts with their answers."""
    test: tuple[tuple[str, str], ...]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a json, jsonl, csv or parquet file.

    Raises:
        ConfigError: The file cannot be read, or holds no rows.
    """
    try:
        rows = _READERS[path.suffix](path)
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {error.msg}"
        raise _wrong(path, message, error.lineno) from None
    except UnicodeDecodeError as error:
        raise _wrong(path, f"not UTF-8 text: {error.reason}") from None
    except FileNotFoundError:
        raise _wrong(path, "no such file") from None
    except (OSError, ValueError, csv.Error) as error:
        raise _wrong(path, f"cannot be read: {str(error).splitlines()[0]}") from None
    if not rows:
        raise _wrong(path, "expected rows, found none")
    return rows


def find_columns(path: Path, row: dict[str, Any]) -> ColumnsConfig:
    """Guess what the file's columns hold from their names.

    Raises:
        ConfigError: No column has a known name.
    """
    columns = guess_columns(row)
    if columns is None:
        raise _wrong(path, unknown_columns(path.name, row).replace("expected columns", "expected"))
    return columns


def pairs(
    path: Path, rows: Sequence[dict[str, Any]], columns: ColumnsConfig
) -> list[tuple[str, str]]:
    """Return each row's prompt and reference answer, from a file that has columns for both.

    Raises:
        ConfigError: A cell holds no text.
    """
    texts = []
    for number, row in enumerate(rows, start=1):
        cells = []
        for column in (columns.prompt, columns.completion):
            cell = row.get(str(column))
            if not isinstance(cell, str) or not cell:
                message = f"expected text in column {column!r} of row {number}, found {short(cell)}"
                raise _wrong(path, message)
            cells.append(cell)
        further = row.get(columns.input) if columns.input else None
        texts.append((with_input(cells[0], further and str(further)), cells[1]))
    return texts


def hold_out(rows: Sequence[dict[str, Any]], texts: Sequence[tuple[str, str]]) -> HeldOut | None:
    """Hold out some prompts for a selection and for a test suite, always the same ones.

    Return None if there are too few different prompts in ``texts``, each row's prompt and answer.
    """
    # White space makes no difference between prompts, as in the leak check.
    keys = [" ".join(prompt.split()) for prompt, _ in texts]
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    if len(first) < FEWEST_PROMPTS:
        return None
    shuffled = list(first)
    random.Random(0).shuffle(shuffled)
    counts = [min(most, int(share * len(first))) for most, share in (_SELECTION, _TEST)]
    chosen = shuffled[: sum(counts)]
    held = frozenset(chosen)
    documents = [texts[first[key]] for key in chosen]
    return HeldOut(
        train=tuple(row for row, key in zip(rows, keys, strict=True) if key not in held),
        selection=tuple(documents[: counts[0]]),
        test=tuple(documents[counts[0] :]),
    )


def json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as the text of a jsonl file."""
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _read_json(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json" and text.lstrip().startswith("["):
        return _mappings(json.loads(text))
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise _wrong(path, f"not valid JSON: {error.msg}", number, error.colno) from None
    return _mappings(rows)


def _mappings(rows: Any) -> list[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"expected a mapping as row {number}, found {short(row)}")
    return list(rows)


def _read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


_READERS = {".json": _read_json, ".jsonl": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}


def _wrong(path: Path, message: str, line: int | None = None, column: int = 1) -> ConfigError:
    at = None if line is None else column
    return ConfigError([Problem(source=str(path), message=message, line=line, column=at)])
