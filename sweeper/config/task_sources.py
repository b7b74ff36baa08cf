"""Which files lm-eval's task files read: a suite's hash covers them all.

Files are only parsed here: nothing of a task is run or built.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sweeper.foundation.cache import file_hash

_YAML = (".yaml", ".yml")
_TASK_SUFFIXES = (*_YAML, ".py", ".jinja")


def task_sources(directory: Path) -> dict[str, str]:
    """Return hashes of a folder's task files, their code, and the files that they name."""
    hashes: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.suffix not in _TASK_SUFFIXES or is_debris(name) or not path.is_file():
            continue
        hashes[str(name)] = file_hash(path)
        if path.suffix in _YAML:
            hashes |= _named_by(path, str(name), directory)
            for included in included_files(path):
                if _is_file(included) and not _is_listed(included, directory):
                    key = os.path.relpath(included, directory)
                    hashes[f"include {key}"] = file_hash(included)
                    hashes |= _named_by(included, key, directory)
    return hashes


def is_debris(name: Path) -> bool:
    """Return whether a relative path is that of what editors and systems leave behind."""
    return any(
        part.startswith((".", "#")) or part.endswith("~") or part == "__pycache__"
        for part in name.parts
    )


def matching_files(base: Path, name: str) -> list[Path]:
    """Return the places that a name in a file of the folder ``base`` stands for.

    Wildcards stand for the files that match, in order; a name that matches nothing for itself.
    """
    try:
        given = Path(name).expanduser()
    except RuntimeError:  # no such user
        given = Path(name)
    try:
        place = (base / given).resolve()
        if place.exists() or not re.search(r"[*?\[]", name):
            return [place]
        root = Path(place.anchor)
        found = sorted(root.glob(str(place.relative_to(root))))
        return [path for path in found if not is_debris(Path(path.name))] or [place]
    except (OSError, ValueError, RuntimeError, NotImplementedError):
        return [base / given]


def included_files(task_file: Path) -> list[Path]:
    """Return every file that an lm-eval task file includes, directly or through another."""
    found: dict[Path, None] = {}
    waiting = [task_file]
    while waiting:
        file = waiting.pop(0)
        for name in _texts(_values(_tree(file), "include")):
            path = matching_files(file.parent, name)[0]
            if path not in found:
                found[path] = None
                waiting.append(path)
    return list(found)


def _named_by(task_file: Path, shown: str, directory: Path) -> dict[str, str]:
    """Return hashes of data, prompts and code that a task file names, except listed ones."""
    hashes: dict[str, str] = {}
    tree = _tree(task_file)
    data = [
        *_values(tree, "data_files"),
        *_values(tree, "data_dir"),
        *_values(tree, "dataset_path"),
    ]
    for name in dict.fromkeys(_texts(data)):
        key = f"{shown}: {name}"
        for place in matching_files(task_file.parent, name):
            own = place.name == Path(name).name
            hashes |= _contents(
                place, key if own else f"{key}: {os.path.relpath(place, task_file.parent)}"
            )
    prompts = [name.rpartition(":")[0] for name in _texts(_values(tree, "use_prompt"))]
    for name in prompts:
        [*_, place] = matching_files(task_file.parent, name or ".")
        if not _is_listed(place, directory):
            hashes |= _contents(place, f"{shown}: {name}") if _is_file(place) else {}
    for module in _modules(task_file, tree):
        if not _is_listed(module, directory):
            hashes[f"module {os.path.relpath(module, directory)}"] = file_hash(module)
    return hashes


def _contents(place: Path, key: str) -> dict[str, str]:
    """Return the hash of a file, or of the files of a folder one by one."""
    if _is_file(place):
        return {key: file_hash(place)}
    try:
        inner = sorted(file for file in place.rglob("*") if file.is_file())
    except OSError:
        return {}
    names = [file.relative_to(place) for file in inner]
    return {f"{key}: {name}": file_hash(place / name) for name in names if not is_debris(name)}


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except (OSError, ValueError):
        return False


def _is_listed(path: Path, directory: Path) -> bool:
    """Return whether a file is hashed as one of the folder's own."""
    if path.suffix not in _TASK_SUFFIXES or not path.is_relative_to(directory):
        return False
    return not is_debris(path.relative_to(directory))


def _modules(task_file: Path, tree: Node | None) -> list[Path]:
    """Return the Python files that ``!function`` names, and those that they import from there."""
    found: dict[Path, None] = {}
    for node in _nodes(tree):
        if isinstance(node, ScalarNode) and str(node.tag) == "!function":
            module = node.value.rpartition(".")[0].replace(".", "/")
            _add_module(task_file.parent / f"{module}.py", found)
    return list(found)


def _add_module(path: Path, found: dict[Path, None]) -> None:
    path = path.resolve()
    if path in found or not _is_file(path):
        return
    found[path] = None
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)]
        for name in filter(None, names):
            place = path.parent / name.replace(".", "/")
            _add_module(place.with_name(f"{place.name}.py"), found)
            _add_module(place / "__init__.py", found)


def _tree(file: Path) -> Node | None:
    """Return the nodes of a YAML file; None if it cannot be read."""
    try:
        root: Node | None = YAML(typ="safe", pure=True).compose(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError, RecursionError):
        return None
    return root


def _nodes(root: Node | None) -> Iterator[Node]:
    """Yield every node once, though aliases may repeat it or hold it inside itself."""
    seen: set[int] = set()
    waiting = [root] if root is not None else []
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, SequenceNode):
            waiting += node.value


def _values(root: Node | None, key: str) -> list[Node]:
    """Return what stands at a key, at any depth."""
    mappings = (node for node in _nodes(root) if isinstance(node, MappingNode))
    return [value for node in mappings for name, value in node.value if name.value == key]


def _texts(nodes: list[Node]) -> Iterator[str]:
    """Yield the texts that nodes hold, without the keys of mappings."""
    for root in nodes:
        keys = {
            id(name)
            for node in _nodes(root)
            if isinstance(node, MappingNode)
            for name, _ in node.value
        }
        for node in _nodes(root):
            if isinstance(node, ScalarNode) and id(node) not in keys:
                yield node.value
