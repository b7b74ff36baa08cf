"""Names of tasks, groups and tags: those of a suite's folders, then lm-eval's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind, TaskIndex

from sweeper.config.task_sources import is_debris
from sweeper.evaluation.task_yaml import read_task
from sweeper.foundation.errors import BadInputError


class Index:
    """Entries of a suite's folders by name, with what could not be read there."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._folders = ", ".join(map(str, directories))
        self._broken: list[BadInputError] = []
        self._twice: dict[str, tuple[Path | None, Path | None]] = {}
        self._files: dict[Path, None] = {}
        self.entries: dict[str, Entry] = {}
        for directory in directories:
            for path in sorted(directory.rglob("*.yaml"), key=Path.as_posix):
                if not is_debris(path.relative_to(directory)) and path.is_file():
                    self._add(path.resolve())
        self._unread = [p for d in directories for p in d.rglob("*") if p.suffix in _MISNAMED]

    def is_own(self, path: Path | None) -> bool:
        """Return whether a task file is one of the suite's."""
        return path is not None and Path(path).resolve() in self._files

    def check(self, name: str) -> None:
        """Check that a name means one task, group or tag, and so do those of its members.

        Raises:
            BadInputError: There is none, more than one, or it may be in a file that is broken.
        """
        if (name not in self.entries or self._is_open(name)) and self._broken:
            raise self._broken[0]
        names = list(self._reachable(name))
        if any(inner not in self.entries for inner in names):
            # Indexing lm-eval's own tasks takes seconds: only when one of them is needed.
            self.entries = {**_own_entries(), **self.entries}
        for inner in self._reachable(name):
            if inner not in self.entries:
                raise BadInputError(self._unknown(inner, name))
            if inner in self._twice:
                first, second = self._twice[inner]
                raise BadInputError(
                    f"the task {inner!r} stands in two files, {first} and {second}: rename one"
                )

    def _unknown(self, name: str, wanted: str) -> str:
        within = "" if name == wanted else f", which {wanted!r} names,"
        misnamed = next((path for path in self._unread if path.stem == name), None)
        hint = f"; rename {misnamed} so that it ends in .yaml" if misnamed else ""
        return f"no task {name!r}{within} in {self._folders}, nor in lm-eval{hint}"

    def _is_open(self, name: str) -> bool:
        """Return whether files that cannot be read may belong to a name."""
        kinds = {self.entries[n].kind for n in self._reachable(name) if n in self.entries}
        return Kind.TAG in kinds

    def _reachable(self, name: str) -> Iterator[str]:
        """Yield a name and those of all its members, each once."""
        seen: dict[str, None] = {}
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if one in seen:
                continue
            seen[one] = None
            yield one
            entry = self.entries.get(one)
            if entry is not None and entry.kind == Kind.TAG:
                waiting += sorted(entry.tags)
            elif entry is not None and entry.kind == Kind.GROUP and self.is_own(entry.yaml_path):
                waiting += _named(entry.cfg or {})

    def _add(self, path: Path) -> None:
        if path in self._files:
            return
        self._files[path] = None
        one: dict[str, Entry] = {}
        try:
            values = read_task(path, functions=False)
            if not {"task", "group", "class"} & set(values):
                return  # what others include
            _check_names(values, path)
            TaskIndex.process_cfg(values, path, one)
        except BadInputError as error:
            self._broken.append(error)
            return
        for name, entry in one.items():
            other = self.entries.get(name)
            if other is not None and other.kind == entry.kind == Kind.TAG:
                other.tags |= entry.tags
            elif other is not None:
                self._twice[name] = (other.yaml_path, entry.yaml_path)
            else:
                self.entries[name] = entry


_MISNAMED = (".yml", ".YAML", ".YML")


def _check_names(values: Mapping[str, Any], path: Path) -> None:
    key = "group" if "group" in values and "class" not in values else "task"
    name = values.get(key)
    if not isinstance(name, str) or not name:
        hint = "; a list of tasks needs a group: NAME" if isinstance(name, list) else ""
        raise BadInputError(f"{path}: {key}: expected a name, found {name!r:.80}{hint}")
    tags = values.get("tag") or []
    for tag in tags if isinstance(tags, list) else [tags]:
        if not isinstance(tag, str):
            raise BadInputError(f"{path}: tag: expected names, found {tag!r:.80}")


def _named(group: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of tasks and groups that a group names, without those it defines itself."""
    members = group.get("task")
    for member in [members] if isinstance(members, str) else members or ():
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict) and isinstance(member.get("group"), str):
            if "task" in member:
                yield from _named(member)
            else:
                yield member["group"]
        elif isinstance(member, dict) and not {"doc_to_text", "use_prompt"} & set(member):
            yield from filter(None, [member.get("task")])


@cache
def _own_entries() -> dict[str, Entry]:
    """Return lm-eval's own entries; files of an installed library do not change."""
    entries: dict[str, Entry] = TaskManager(include_defaults=True).task_index
    return entries
