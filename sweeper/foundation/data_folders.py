"""Which files hold rows: a file, those of a folder, or those of ``save_to_disk``; their splits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.foundation.errors import BadInputError

COLUMNAR = (".parquet", ".arrow", ".feather")
JSON = (".json", ".jsonl", ".ndjson")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*JSON, *DELIMITERS, *COLUMNAR)
"""Suffixes of files that hold rows, in any case, alone or before one of ``COMPRESSED``."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files."""
PLACES = ("/", "./", "../", "~")
"""Beginnings of names that can only be those of local files and folders."""
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in the names of files and folders that say which split they hold, as on the hub."""


_ABOUT = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")
"""Names of files that describe a data set, and hold none of its rows."""


def is_data_file(name: str) -> bool:
    """Return whether a file's name says that it holds rows."""
    return suffix_of(name) in SUFFIXES


def looks_local(name: str) -> bool:
    """Return whether a name is that of a local file or folder, not of a data set on the hub."""
    return is_data_file(name) or name.startswith(PLACES)


def row_files(place: Path, split: str = "train") -> tuple[Path, ...]:
    """Return the files that hold a split's rows: a file itself, or those below a folder.

    In a folder of ``save_to_disk`` they are those that it lists. In any other, every file that
    holds rows counts; if names of files or folders say a split (``test.jsonl``, ``train/0.jsonl``),
    those that say this one.

    Raises:
        BadInputError: There is no such place, or a folder holds no rows of this split.
    """
    if not place.is_dir():
        if not place.exists():
            raise BadInputError(f"no file or folder {place}")
        if not is_data_file(place.name):
            raise BadInputError(
                f"expected a file of rows ({', '.join(SUFFIXES)}; also with"
                f" {', '.join(COMPRESSED)}), found {place.name!r}"
            )
        return (place,)
    if (place / "dataset_dict.json").is_file():
        splits = _read_object(place / "dataset_dict.json").get("splits")
        names = [str(name) for name in splits] if isinstance(splits, list) else []
        return _saved_files(place / _chosen(place, split, names))
    if (place / "state.json").is_file():
        return _saved_files(place)
    return _folder_files(place, split)


def check_split(place: Path, split: str) -> None:
    """Check that a split is not asked for of a single file whose name does not say it.

    Raises:
        BadInputError: All rows of the file would be taken for those of the split.
    """
    if place.is_file() and split not in ("train", _split_of(Path(place.name))):
        raise BadInputError(
            f"expected no split for a single file, all of whose rows are read, found {split!r}:"
            " leave it out, write limit for the first rows, or name a folder with one file for each"
            " split"
        )


def suffix_of(name: str) -> str:
    """Return a name's suffix in lower case, below that of compression."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def kept_of_a_folder(cache_files: Iterable[str]) -> Path | None:
    """Return where the cache of the library datasets keeps rows of a folder; None for hub data.

    The library keeps them under the folder's name alone, and takes them for a data set of that name
    where the folder is not. Rows of a data set on the hub are kept by commit: 40 hex digits.
    """
    kept = (Path(name).parent for name in cache_files)
    return next((path for path in kept if not re.fullmatch("[0-9a-f]{40}", path.name)), None)


def unread_files(folder: Path, split: str = "train") -> tuple[Path, ...]:
    """Return the files of a folder, hidden ones aside, that hold no rows of the split."""
    read = {*row_files(folder, split)}
    return tuple(path for path in _visible_files(folder) if path not in read)


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith((".", "__")) for part in parts) or path.name in _ABOUT
        if hidden:
            continue
        if is_data_file(path.name) and not path.exists():
            raise BadInputError(f"{path} is a link to a file that is not there")
        if path.is_file():
            yield path


def _folder_files(folder: Path, split: str) -> tuple[Path, ...]:
    visible = filter(lambda path: is_data_file(path.name), _visible_files(folder))
    found = {path: _split_of(path.relative_to(folder)) for path in visible}
    if not found:
        raise BadInputError(f"expected files of rows ({', '.join(SUFFIXES)}) in {folder}")
    named = {name for name in found.values() if name is not None}
    if not named:
        _chosen(folder, split, ["train"])
        return tuple(found)
    unnamed = [path for path, name in found.items() if name is None]
    if unnamed:
        raise BadInputError(
            f"expected a split in the name of every file, as in train.jsonl, but {unnamed[0]} has"
            f" none and others in {folder} do; name the file of the rows instead of the folder"
        )
    wanted = _chosen(folder, split, sorted(named))
    return tuple(path for path, name in found.items() if name == wanted)


def _split_of(path: Path) -> str | None:
    """Return the split that a relative path says, the file's name before its folders."""
    for part in reversed(path.parts):
        words = re.split(r"[-._ 0-9]+", part.lower())
        for name, synonyms in _SPLITS.items():
            if any(word in synonyms for word in words):
                return name
    return None


def _chosen(folder: Path, split: str, available: Sequence[str]) -> str:
    if split not in available:
        listed = ", ".join(available) or "none"
        raise BadInputError(f"no split {split!r} in {folder}; it has {listed}")
    return split


def _saved_files(folder: Path) -> tuple[Path, ...]:
    """Return the arrow files of a folder of ``save_to_disk``."""
    state = _read_object(folder / "state.json")
    listed = state.get("_data_files")
    names = [item.get("filename") for item in listed or () if isinstance(item, dict)]
    files = tuple(folder / str(name) for name in names)
    missing = [path for path in files if not path.is_file()]
    if not files or missing or state.get("_indices_files"):
        what = f"no file {missing[0]}" if missing else "no list of its files in state.json"
        raise BadInputError(f"{folder} is not complete: {what}")
    return files


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: expected a JSON object")
    return value


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; its kind if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shortened(value: object) -> str:
    """Return a value as it is written in Python, cut to the width of a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
