"""A local data file as a study's data: its rows, and those that are held out for scoring."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeper.config.base import short
from sweeper.config.columns import ColumnsConfig, guess_columns_of, unknown_columns, with_input
from sweeper.foundation import data_files
from sweeper.foundation.data_folders import check_split
from sweeper.foundation.data_json import HeldRowsError
from sweeper.foundation.errors import BadInputError, ConfigError, Problem

FEWEST_PROMPTS = 20
"""Number of prompts from which on some are held out."""
_SELECTION, _TEST = (200, 0.1), (400, 0.2)
"""Largest number of held-out prompts, and their largest share."""


@dataclass(frozen=True)
class LocalRows:
    """Rows of a file or folder."""

    places: tuple[data_files.Place, ...]
    """Where each row stands."""
    rows: list[dict[str, Any]]
    field: str | None = None
    """Key of the JSON object that holds them; None if they are in none."""

    def first(self, limit: int) -> LocalRows:
        """Return the first so many rows."""
        return replace(self, places=self.places[:limit], rows=self.rows[:limit])


@dataclass(frozen=True)
class HeldOut:
    """Rows divided so that no prompt is in two places."""

    train: tuple[dict[str, Any], ...]
    """Rows as they are in the file."""
    selection: tuple[tuple[str, str], ...]
    """Prompts with their answers."""
    test: tuple[tuple[str, str], ...]


def read_rows(path: Path, split: str = "train", field: str | None = None) -> LocalRows:
    """Read the rows of a file or folder, at the key of a JSON object if it has only one.

    Raises:
        ConfigError: Something cannot be read, or there are no rows.
    """
    try:
        try:
            check_split(path, split)
            placed = list(data_files.read_placed(path, split, field))
        except HeldRowsError as error:
            if len(error.keys) > 1:
                raise
            [field] = error.keys
            placed = list(data_files.read_placed(path, split, field))
    except BadInputError as error:
        source, _, message = str(error).partition(": ")
        if not source.startswith(str(path)):
            source, message = str(path), str(error)
        raise ConfigError([Problem(source=source, message=message)]) from None
    if not placed:
        raise _wrong(path, "expected rows, found none")
    return LocalRows(tuple(place for place, _ in placed), [row for _, row in placed], field)


def find_columns(path: Path, rows: Sequence[dict[str, Any]]) -> ColumnsConfig:
    """Guess what the file's columns hold from their names.

    Raises:
        ConfigError: No column has a known name.
    """
    columns = guess_columns_of(rows)
    if columns is None:
        raise _wrong(path, unknown_columns(path.name, rows).replace("expected columns", "expected"))
    return columns


def pairs(path: Path, local: LocalRows, columns: ColumnsConfig) -> list[tuple[str, str]]:
    """Return each row's prompt and reference answer, from a file that has columns for both.

    Raises:
        ConfigError: Cells hold no text.
    """
    texts, wrong = [], list[str]()
    for place, row in zip(local.places, local.rows, strict=True):
        cells = []
        for column in (columns.prompt, columns.completion):
            cell = row.get(str(column))
            cells.append(cell if isinstance(cell, str) and cell.strip() else None)
            if cells[-1] is None:
                line = f" (line {place.line})" if place.line is not None else ""
                found = f"expected text in column {column!r} of row {place.row}{line}, found"
                wrong.append(f"{found} {short(cell)}")
                break
        further = row.get(columns.input) if columns.input else None
        texts.append((with_input(str(cells[0]), further and str(further)), str(cells[-1])))
    if wrong:
        raise _wrong(path, f"{wrong[0]}; {len(wrong):,} of {len(texts):,} rows cannot be used")
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


def _wrong(path: Path, message: str) -> ConfigError:
    return ConfigError([Problem(source=str(path), message=message)])
