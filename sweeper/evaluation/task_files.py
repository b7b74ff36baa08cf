"""lm-eval's tasks of task files, so that one means the same wherever and whenever it is loaded.

Local data are found next to the file that names them and read by their content, in the project's
one reader; prompts and targets are what the documents hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as READERS
from lm_eval.api.registry import get_metric_aggregation
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import GROUP_FIELD_NAMES, TaskFactory
from lm_eval.tasks._index import Entry
from lm_eval.tasks._index import Kind as EntryKind

from sweeper.evaluation.task_checks import check_values
from sweeper.evaluation.task_data import with_checked_documents, with_local_data
from sweeper.evaluation.task_index import Index
from sweeper.evaluation.task_yaml import read_task
from sweeper.evaluation.templates import Field, Kind, is_template, short
from sweeper.foundation.data_folders import kept_of_a_folder
from sweeper.foundation.errors import BadInputError

_FIELDS: dict[str, Kind] = {
    "doc_to_text": "text",
    "doc_to_target": "target",
    "doc_to_choice": "choices",
}


class TaskFolders:
    """The folders of a suite's task files, which win over lm-eval's own tasks."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._index = Index(directories)
        # Without a list, lm-eval would look for its default folders.
        self._manager = TaskManager(include_defaults=False, include_path=[])
        self._manager._factory = _Factory(self._index)

    def load(self, name: str) -> dict[str, Task]:
        """Return the tasks of a task, a group or a tag, by name.

        Raises:
            BadInputError: There is none of the name, or one cannot be loaded; names the file.
        """
        self._index.check(name)
        self._manager._index = self._index.entries
        entry = self._index.entries[name]
        loaded = self._manager.load([name])
        groups = loaded.get("groups") or {}
        names = [task.task_name for task in groups[name].get_all_tasks()] if name in groups else []
        if twice := [inner for inner in names if names.count(inner) > 1]:
            raise BadInputError(f"{entry.yaml_path}: the task {twice[0]!r} is in {name!r} twice")
        tasks: dict[str, Task] = loaded["tasks"]
        return tasks

    def file_of(self, name: str) -> Path | None:
        """Return the task file of a name, if it is one of the suite's."""
        entry = self._index.entries.get(name)
        path = entry.yaml_path if entry else None
        return path if self._index.is_own(path) else None


class _Factory(TaskFactory):  # type: ignore[misc]
    """Makes tasks of their files; lm-eval's own files keep their prompts and data sets."""

    def __init__(self, index: Index) -> None:
        super().__init__()
        self._own = index
        self._open: list[str] = []
        self._file_of: dict[str, Path] = {}

    def _load_full_config(
        self, entry: Entry, overrides: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        path = entry.yaml_path
        if path is None or not self._own.is_own(path):
            config: dict[str, Any] = super()._load_full_config(entry, overrides)
            if entry.kind != EntryKind.GROUP:
                _check_aggregations(config)
            return _with_fields(config, own=False)
        config = {**read_task(path, functions=True), **(overrides or {})}
        config["metadata"] = {**_metadata(config), "config_source": str(path)}
        if entry.kind == EntryKind.GROUP:
            self._file_of[entry.name] = path
            return config
        return _prepared(config, path)

    def _build_group(
        self,
        group_name: str,
        raw_cfg: dict[str, Any],
        overrides: dict[str, Any] | None,
        registry: dict[str, Entry],
    ) -> Any:
        path = self._file_of.get(group_name.partition("::")[0])
        if path is None:
            return super()._build_group(group_name, raw_cfg, overrides, registry)
        if group_name in self._open:
            circle = " → ".join((*self._open[self._open.index(group_name) :], group_name))
            raise BadInputError(f"{path}: task: expected no circle of groups, found {circle}")
        members = raw_cfg.get("task")
        members = [members] if isinstance(members, str) else members
        if not isinstance(members, list) or not members:
            raise BadInputError(
                f"{path}: task: expected the tasks of the group {group_name!r},"
                f" found {short(members)}"
            )
        shared = {key: raw_cfg[key] for key in raw_cfg if key not in GROUP_FIELD_NAMES}
        shared |= overrides or {}
        members = [_member(item, shared, registry, path) for item in members]
        _check_once(members, group_name, path)
        self._open.append(group_name)
        try:
            return super()._build_group(
                group_name, {**raw_cfg, "task": members}, overrides, registry
            )
        finally:
            self._open.pop()


def _member(item: Any, shared: Mapping[str, Any], registry: Mapping[str, Entry], path: Path) -> Any:
    """Return a member of a group; one that the group defines itself, ready to be made."""
    if not isinstance(item, dict) or "group" in item or not isinstance(item.get("task"), str):
        return item
    entry = registry.get(item["task"])
    if entry is None:
        config = {**shared, **item}
        return _prepared({**config, "metadata": _metadata(config)}, path)
    if entry.kind in (EntryKind.GROUP, EntryKind.TAG):
        # lm-eval would give every task in it the group's name.
        raise BadInputError(
            f"{path}: task: {item['task']!r} is a {entry.kind.name.lower()}; write its name alone,"
            f" or group: {item['task']} with the settings of its tasks"
        )
    return item


def _check_once(members: Sequence[Any], group: str, path: Path) -> None:
    names = [
        item.get("group") or item.get("task") if isinstance(item, dict) else item
        for item in members
    ]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInputError(f"{path}: task: {twice[0]!r} is in the group {group!r} twice")


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    value = config.get("metadata")
    return dict(value) if isinstance(value, Mapping) else {"_metadata": value} if value else {}


def _prepared(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a task file's values as lm-eval gets them, checked."""
    try:
        if "class" in config:
            return with_local_data(config)
        config = _with_prompt(config)
        _check_aggregations(config)
        check_values(config)
        return with_checked_documents(_with_fields(with_local_data(config), own=True))
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}") from error


def _with_prompt(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the templates of the file that ``use_prompt`` names."""
    prompt = config.get("use_prompt")
    if prompt is None:
        return config
    file, _, name = str(prompt).rpartition(":")
    if not file.endswith(".yaml"):
        # lm-eval takes its own prompts for the target, too.
        raise BadInputError(
            f"use_prompt: expected FILE.yaml:NAME, found {short(prompt)}; write a prompt of a"
            " library as doc_to_text"
        )
    prompts = read_task(Path(file), functions=False).get("prompts")
    found = prompts.get(name) if isinstance(prompts, Mapping) else None
    if not isinstance(found, Mapping):
        known = ", ".join(map(str, prompts)) if isinstance(prompts, Mapping) else "none"
        raise BadInputError(f"use_prompt: no prompt {name!r} in {file}; it has {known}")
    if more := [key for key in found if key not in ("doc_to_text", "doc_to_target", "name")]:
        raise BadInputError(f"use_prompt: expected doc_to_text and doc_to_target, found {more[0]}")
    rest = {key: value for key, value in config.items() if key != "use_prompt"}
    return {**rest, **{key: found.get(key) for key in ("doc_to_text", "doc_to_target")}}


def _with_fields(config: dict[str, Any], *, own: bool) -> dict[str, Any]:
    """Have prompts, targets and choices made here; of lm-eval's own tasks, plain targets only."""
    choices = config.get("doc_to_choice") is not None
    plain = config.get("output_type", "generate_until") == "generate_until" and not choices
    if not own and (not plain or "class" in config):
        return config

    def fields(values: Mapping[str, Any], within: str) -> dict[str, Any]:
        made: dict[str, Any] = {}
        options = values.get("doc_to_choice", config.get("doc_to_choice"))
        for key, kind in _FIELDS.items():
            given = values.get(key)
            if kind == "target" and isinstance(given, int) and options is not None:
                given = f"{{{{{given}}}}}"  # an index that all documents share
            if (own and callable(given)) or (
                isinstance(given, str) and (own or (kind == "target" and is_template(given)))
            ):
                scored = config.get("process_results") is None
                asked = made.get("doc_to_text", values.get("doc_to_text"))
                prompt = asked if kind == "target" else None
                made[key] = Field(
                    within + key, kind, given, _options(options), prompt, scored, own=own
                )
        return made

    config = {**config, **fields(config, "")}
    if isinstance(examples := config.get("fewshot_config"), Mapping):
        config["fewshot_config"] = {**examples, **fields(examples, "fewshot_config.")}
    return config


def _options(choices: Any) -> Field | tuple[str, ...] | None:
    if choices is None or isinstance(choices, Field):
        return choices
    if isinstance(choices, list | dict):
        return tuple(choices.values() if isinstance(choices, dict) else choices)
    return Field("doc_to_choice", "choices", choices)


def _check_aggregations(config: Mapping[str, Any]) -> None:
    listed = config.get("metric_list")
    for item in listed if isinstance(listed, list) else ():
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
