"""lm-eval's task files, read so that a task means the same wherever and whenever it is loaded.

Local data are found beside the file that names them and read by their content, in the project's one
reader; targets stay what the documents hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset, DatasetDict
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as READERS
from lm_eval.api.registry import get_metric_aggregation
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import env

from sweeper.foundation.data_files import read_rows
from sweeper.foundation.data_folders import kept_of_a_folder
from sweeper.foundation.errors import BadInputError

_FILE_KINDS = ("json", "csv", "parquet", "arrow")
"""Values of ``dataset_path`` that stand for a kind of file."""
_EXPRESSION = re.compile(r"\{\{-?((?:(?!\}\}|\{%).)*?)-?\}\}", re.DOTALL)


def task_manager(directories: Sequence[Path], *, defaults: bool) -> TaskManager:
    """Return lm-eval's loader of the tasks in ``directories``; with ``defaults``, its own too."""
    # Without a list, lm-eval would look for its default folders.
    manager = TaskManager(include_defaults=defaults, include_path=[str(d) for d in directories])
    manager._factory = _Factory(tuple(path.resolve() for path in directories))
    return manager


class _Factory(TaskFactory):  # type: ignore[misc]
    """Makes tasks of their files; lm-eval's own files keep what their data sets are."""

    def __init__(self, directories: tuple[Path, ...]) -> None:
        super().__init__()
        self._directories = directories

    def _load_full_config(
        self, entry: Any, overrides: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        config: dict[str, Any] = super()._load_full_config(entry, overrides)
        path = entry.yaml_path
        if path is not None and any(
            Path(path).resolve().is_relative_to(directory) for directory in self._directories
        ):
            own = overrides is not None and "dataset_kwargs" in overrides
            base = Path(path).resolve().parent
            config = _with_local_data(config, base if own else _base(Path(path)) or base)
        _check_aggregations(config)
        return _with_plain_target(config)


def _check_aggregations(config: Mapping[str, Any]) -> None:
    for item in config.get("metric_list") or ():
        name = item.get("metric") if isinstance(item, Mapping) else None
        if not isinstance(name, str) or "aggregation" in item:
            continue
        if get_metric_aggregation(name) is None:
            raise BadInputError(
                f"the metric {name!r} is not one of lm-eval's, and its metric_list does not say how"
                " documents become a score; write aggregation: mean and higher_is_better next to it"
            )


def check_source(name: str, task: Any) -> None:
    """Check that a task's documents are not another folder's, kept in a cache.

    Raises:
        BadInputError: They are.
    """
    source = task.config.dataset_path
    if not isinstance(source, str) or source in READERS or Path(source).is_dir():
        return
    if task.config.custom_dataset is not None or not isinstance(task.dataset, DatasetDict):
        return
    files = (file["filename"] for split in task.dataset.values() for file in split.cache_files)
    if kept := kept_of_a_folder(files):
        raise BadInputError(
            f"Task {name}: expected a folder or a data set on the hub as dataset_path, found no"
            f" {source}; only the cache of the library datasets has rows of another folder of this"
            f" name, in {kept}"
        )


def _base(path: Path) -> Path | None:
    """Return the folder of the file that states the data: a task file, or one that it includes."""
    path = path.resolve()
    values = load_yaml(path, resolve_func=False, recursive=False)
    if "dataset_kwargs" in values or "dataset_path" in values:
        return path.parent
    includes = values.get("include") or []
    for name in reversed([includes] if isinstance(includes, str) else includes):
        if found := _base(path.parent / name):
            return found
    return None


def _with_local_data(config: dict[str, Any], base: Path) -> dict[str, Any]:
    """Have local data read by the one reader, also those of tasks inside a group."""
    config = dict(config)
    if isinstance(members := config.get("task"), list):
        config["task"] = [
            _with_plain_target(_with_local_data(member, base))
            if isinstance(member, dict)
            else member
            for member in members
        ]
    options = dict(config.get("dataset_kwargs") or {})
    source = config.get("dataset_path")
    if source in _FILE_KINDS and "data_files" in options:
        places = _places(options.pop("data_files"), base)
        if places is None:
            return config
        _check_splits(config, places)
        config["custom_dataset"] = _reader(places, options.pop("field", None))
    elif isinstance(source, str) and (base / source).is_dir():
        folder = base / source
        config["custom_dataset"] = _reader({split: [folder] for split in _splits(config)}, None)
    return config


def _check_splits(config: Mapping[str, Any], places: Mapping[str, Sequence[Path]]) -> None:
    for split in _splits(config):
        if split not in places:
            raise BadInputError(
                f"no split {split!r} in data_files of the task {config.get('task')}, which has"
                f" {', '.join(places)}"
            )


def _splits(config: Mapping[str, Any]) -> list[str]:
    keys = ("training_split", "validation_split", "test_split", "fewshot_split")
    named = [str(config[key]).partition("[")[0] for key in keys if config.get(key)]
    return list(dict.fromkeys(named))


def _places(files: Any, base: Path) -> dict[str, list[Path]] | None:
    """Return the local files of each split; None if some are elsewhere."""
    by_split = files if isinstance(files, Mapping) else {"train": files}
    found: dict[str, list[Path]] = {}
    for split, given in by_split.items():
        names = [given] if isinstance(given, str) else list(given)
        if any("://" in str(name) for name in names):
            return None
        found[str(split)] = [place for name in names for place in _matches(base, str(name))]
    return found


def _matches(base: Path, name: str) -> list[Path]:
    place = (base / Path(name).expanduser()).resolve()
    if place.exists() or not re.search(r"[*?\[]", name):
        return [place]
    root = Path(place.anchor)
    return sorted(root.glob(str(place.relative_to(root)))) or [place]


def _reader(places: Mapping[str, Sequence[Path]], field: str | None) -> Callable[..., DatasetDict]:
    def read(**_: Any) -> DatasetDict:
        return DatasetDict(
            {split: _dataset(files, split, field) for split, files in places.items()}
        )

    return read


def _dataset(files: Sequence[Path], split: str, field: str | None) -> Dataset:
    rows = [row for file in files for row in read_rows(file, split, field)]
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


def _with_plain_target(config: dict[str, Any]) -> dict[str, Any]:
    """Have a target that is one expression stay what the document holds.

    lm-eval evaluates a rendered target in brackets, so that the text ``[1, 2, 3]`` becomes a list.
    """
    target = config.get("doc_to_target")
    generates = config.get("output_type", "generate_until") == "generate_until"
    if not isinstance(target, str) or not generates or config.get("doc_to_choice") is not None:
        return config
    found = _EXPRESSION.fullmatch(target)
    if found is None:
        return config
    try:
        value_of = env.compile_expression(found[1], undefined_to_none=False)
    except Exception:  # lm-eval says what is wrong with the template
        return config

    def to_target(doc: Mapping[str, Any]) -> Any:
        value = value_of(**doc)
        return deepcopy(value) if isinstance(value, list) else str(value)

    return {**config, "doc_to_target": to_target}
