"""Documents of a task file's own data, read by their content in the project's one reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset, DatasetDict
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as READERS

from sweeper.config.task_sources import matching_files
from sweeper.evaluation.task_yaml import FILE_KINDS, place_of, told
from sweeper.evaluation.templates import listed, short
from sweeper.foundation.data_files import read_rows
from sweeper.foundation.data_folders import first_line, is_data_file, looks_local
from sweeper.foundation.errors import BadInputError

_OPTIONS = ("data_files", "data_dir", "field")
_WITHOUT_EFFECT = ("trust_remote_code", "streaming", "cache_dir", "download_mode", "num_proc",
                   "verification_mode", "keep_in_memory", "save_infos")  # fmt: skip


def with_local_data(config: dict[str, Any]) -> dict[str, Any]:
    """Return a task's configuration with a reader of its local data.

    Raises:
        BadInputError: It names a local place that is not there, a split that the data do not have,
            or an option that the reader does not know.
    """
    if config.get("custom_dataset") is not None:
        return config
    options = dict(config.get("dataset_kwargs") or {})
    source = config.get("dataset_path")
    if isinstance(source, str) and source in READERS:
        places = _named_places(source, options, config)
        if places is None:
            return config
    elif isinstance(source, str) and Path(source).is_absolute() and Path(source).is_dir():
        if config.get("dataset_name") is not None:
            raise BadInputError(
                f"dataset_name: a folder has none, found {short(config['dataset_name'])}; name the"
                " folder of its rows as dataset_path"
            )
        places = {split: [Path(source)] for split in _splits(config)}
    else:
        if isinstance(source, str) and looks_local(source):
            hint = "dataset_path: json and dataset_kwargs: {data_files: {test: FILE}}"
            name = f"for a file, write {hint}" if is_data_file(source) else "none is there"
            raise BadInputError(f"dataset_path: expected a folder, found {short(source)}: {name}")
        return config
    for key in options:
        if key not in _OPTIONS and key not in _WITHOUT_EFFECT:
            raise BadInputError(
                f"dataset_kwargs.{key}: local files are read without options but"
                f" {', '.join(_OPTIONS)}; leave it out"
            )
    field = options.get("field")
    if field is not None and not isinstance(field, str):
        raise BadInputError(f"dataset_kwargs.field: expected a key, found {short(field)}")
    read = _lines if source == "text" else read_rows
    return {**config, "custom_dataset": _reader(places, field, read)}


def _named_places(
    kind: str, options: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, list[Path]] | None:
    """Return the local files of each split that a task's options name; None for remote ones."""
    folder = options.get("data_dir")
    places = _places(options["data_files"]) if options.get("data_files") else {}
    if places is None:
        return None
    if kind not in (*FILE_KINDS, "text"):
        kinds = ", ".join((*FILE_KINDS, "text"))
        raise BadInputError(f"dataset_path: local files are one of {kinds}, found {short(kind)}")
    if places:
        _check_splits(config, places)
        return places
    if isinstance(folder, str) and Path(folder).is_dir() and kind != "text":
        return {split: [Path(folder)] for split in _splits(config)}
    # The library datasets would take whatever lies in the working directory.
    raise BadInputError(
        f"dataset_kwargs: expected the files of the documents next to dataset_path: {kind}, as in"
        " {data_files: {test: FILE}}"
    )


def _lines(path: Path, split: str, field: str | None) -> list[dict[str, Any]]:
    """Return a row for each line of a file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} cannot be read: {first_line(error)}") from error
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return [{"text": line} for line in lines] if text else []


def _check_splits(config: Mapping[str, Any], places: Mapping[str, Sequence[Path]]) -> None:
    for split in _splits(config):
        if split not in places:
            raise BadInputError(
                f"no split {split!r} in data_files of the task {config.get('task')}, which has"
                f" {', '.join(places)}"
            )


def _splits(config: Mapping[str, Any]) -> list[str]:
    keys = ("training_split", "validation_split", "test_split", "fewshot_split")
    names = [config[key] for key in keys if config.get(key)]
    examples = config.get("fewshot_config")
    if isinstance(examples, Mapping) and examples.get("split"):
        names.append(examples["split"])
    return list(dict.fromkeys(map(str, names)))


def _places(files: Any) -> dict[str, list[Path]] | None:
    """Return the local files of each split; None if some are elsewhere."""
    by_split = files if isinstance(files, Mapping) else {"train": files}
    found: dict[str, list[Path]] = {}
    for split, given in by_split.items():
        names = given if isinstance(given, list) else [given]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise BadInputError(
                f"dataset_kwargs.data_files: expected names of files, found {short(given)}"
            )
        if any("://" in name for name in names):
            return None
        found[str(split)] = [place for name in names for place in matching_files(Path(), name)]
    return found


_Read = Callable[[Path, str, str | None], list[dict[str, Any]]]


def _reader(
    places: Mapping[str, Sequence[Path]], field: str | None, read: _Read
) -> Callable[..., DatasetDict]:
    def documents(**_: Any) -> DatasetDict:
        return DatasetDict(
            {split: _dataset(files, split, field, read) for split, files in places.items()}
        )

    return documents


def _dataset(files: Sequence[Path], split: str, field: str | None, read: _Read) -> Dataset:
    rows = [row for file in files for row in read(file, split, field)]
    if not rows:
        raise BadInputError(f"expected documents, found none in {files[0]}")
    # A key that a row lacks is null, as templates expect.
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    for name, values in columns.items():
        try:
            pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BadInputError(
                f"expected values of one kind in {name!r} of {files[0]}: {reason}"
            ) from error
    return Dataset.from_dict(columns)


def with_checked_documents(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose ``process_docs`` reports what goes wrong in it."""
    process = config.get("process_docs")
    if process is None:
        return config

    @wraps(process)
    def process_docs(documents: Dataset) -> Dataset:
        try:
            made = process(documents)
        except (BadInputError, MemoryError):
            raise
        except Exception as error:  # whatever a function of the task's own raises
            reason = f"{told(error, place_of(process))}; {listed(documents.column_names)}"
            raise BadInputError(f"process_docs: {reason}") from error
        if not isinstance(made, Dataset):
            raise BadInputError(
                f"process_docs: expected a Dataset, as documents.map gives one, found {short(made)}"
            )
        if not len(made):
            raise BadInputError(f"process_docs: none of {len(documents)} documents is left")
        return made

    return {**config, "process_docs": process_docs}
