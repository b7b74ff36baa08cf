"""lm-eval's task files, read so that every place and every function is that of the file naming it.

Includes are merged as lm-eval merges them; then nothing depends on the working directory, on dates
of files, or on compiled code that lies next to them.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import yaml  # type: ignore[import-untyped]
from lm_eval.tasks._yaml_loader import _Base, _import_func_in_yml

from sweeper.config.task_sources import matching_files
from sweeper.foundation.cache import hash_text
from sweeper.foundation.data_folders import first_line
from sweeper.foundation.errors import BadInputError

FILE_KINDS = ("json", "csv", "parquet", "arrow")
"""Values of ``dataset_path`` that stand for a kind of file."""


def read_task(path: Path, *, functions: bool) -> dict[str, Any]:
    """Return a task file's values, with those that it includes.

    Names of files and folders are absolute afterwards.

    Args:
        path: The file.
        functions: True to load what ``!function`` names; False to leave its name there.

    Raises:
        BadInputError: It, or what it includes or names, is missing or cannot be read.
    """
    return _read(path.expanduser().resolve(), functions, ())


def _read(path: Path, functions: bool, within: tuple[Path, ...]) -> dict[str, Any]:
    if path in within:
        circle = " → ".join(file.name for file in (*within[within.index(path) :], path))
        raise BadInputError(f"{path}: include: expected no circle, found {circle}")
    values = _with_places(_parse(path, functions), path)
    given = values.pop("include", None)
    merged: dict[str, Any] = {}
    for name in given if isinstance(given, list) else [given] if given is not None else []:
        if not isinstance(name, str):
            raise BadInputError(f"{path}: include: expected names of files, found {name!r}")
        place = matching_files(path.parent, name)[0]
        if not place.is_file():
            raise BadInputError(f"{path}: include: no file {place}")
        inner = _read(place, functions, (*within, path))
        # A list of tasks is the included file's own.
        inner.pop("task_list", None)
        merged.update(inner)
    return {**merged, **values}


def _parse(path: Path, functions: bool) -> dict[str, Any]:
    class Loader(_Base):  # type: ignore[misc]
        """Resolves ``!function`` next to the file; refuses a key that stands twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := [name for name in names if names.count(name) > 1 and name != "<<"]:
                message = f"the key {twice[0]!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
            return super().construct_mapping(node, deep=deep)

    def function(loader: Any, node: Any) -> Any:
        name = loader.construct_scalar(node)
        return _function(name, path) if functions else str(path.parent / name)

    Loader.add_constructor("!function", function)
    try:
        values = yaml.load(path.read_bytes(), Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise BadInputError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, ArithmeticError, TypeError, RecursionError) as error:
        raise BadInputError(f"{path}: not valid YAML: {first_line(error)}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"{values!r:.60}"
        raise BadInputError(f"{path}: expected a mapping of keys to values, found {found}")
    return values


def _function(name: str, task_file: Path) -> Any:
    """Return the function of a ``!function``, from the file's folder or from a library."""
    module_name, _, function = name.rpartition(".")
    where = f"{task_file}: !function {name}"
    if not module_name:
        raise BadInputError(f"{where}: expected module.function")
    place = (task_file.parent / f"{module_name.replace('.', '/')}.py").resolve()
    if not place.is_file():
        try:
            return _import_func_in_yml(name, task_file.parent)
        except Exception as error:  # whatever a library raises when it is imported
            raise BadInputError(
                f"{where}: no file {place}, and no library has it: {first_line(error)}"
            ) from error
    module = _module(place, where)
    if not hasattr(module, function):
        known = ", ".join(key for key, value in vars(module).items() if _is_own(value, module))
        raise BadInputError(f"{where}: no {function!r} in {place}; it has {known or 'none'}")
    return getattr(module, function)


class _SourceLoader(SourceFileLoader):
    """Compiles the source that is there now, whatever was compiled of it earlier."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the module."""
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _module(place: Path, where: str) -> ModuleType:
    """Run a module's source, unless a module of this very source is there."""
    digest = hash_text(place.read_bytes().decode("utf-8", "replace"))
    name = str(place.with_suffix(""))
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__source_hash__", None) == digest:
        return loaded
    loader = _SourceLoader(name, str(place))
    spec = spec_from_file_location(name, place, loader=loader)
    assert spec is not None, "a loader that is given makes a spec"
    module = module_from_spec(spec)
    module.__dict__["__source_hash__"] = digest
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name)
        if not isinstance(error, Exception | SystemExit):
            raise
        raise BadInputError(f"{where}: {told(error, place)}") from error
    return module


def _is_own(value: object, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def told(error: BaseException, place: Path | None = None) -> str:
    """Return an error in one line, with the line of ``place`` that it passed through."""
    reason = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if frame.filename == str(place)]
    return f"{place}:{mine[-1].lineno}: {reason}" if mine else reason


def place_of(function: Callable[..., Any]) -> Path | None:
    """Return the file that a function was read from, if it is known."""
    code = getattr(function, "__code__", None)
    return Path(code.co_filename) if code else None


def _with_places(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a file's values with absolute names of data, those of tasks inside a group too."""
    values = dict(values)
    base = path.parent
    options = values.get("dataset_kwargs")
    if isinstance(options, Mapping):
        options = values["dataset_kwargs"] = dict(options)
        if "data_files" in options:
            options["data_files"] = _absolute(options["data_files"], lambda n: _place(base, n))
        if isinstance(folder := options.get("data_dir"), str):
            options["data_dir"] = _folder(base, folder)
    if isinstance(source := values.get("dataset_path"), str) and source not in FILE_KINDS:
        values["dataset_path"] = _folder(base, source)
    if isinstance(prompt := values.get("use_prompt"), str) and ".yaml:" in prompt:
        file, _, name = prompt.rpartition(":")
        values["use_prompt"] = f"{_place(base, file)}:{name}"
    if isinstance(members := values.get("task"), list):
        values["task"] = [
            _with_places(member, path) if isinstance(member, dict) else member for member in members
        ]
    return values


def _absolute(names: Any, place: Callable[[str], str]) -> Any:
    if isinstance(names, str):
        return place(names)
    if isinstance(names, Mapping):
        return {split: _absolute(inner, place) for split, inner in names.items()}
    if isinstance(names, list | tuple):
        return [_absolute(inner, place) for inner in names]
    return names


def _place(base: Path, name: str) -> str:
    if "://" in name:
        return name
    try:
        return str(base / Path(name).expanduser())
    except RuntimeError:  # no such user
        return str(base / name)


def _folder(base: Path, name: str) -> str:
    """Return an absolute name if there is such a folder; else the name, of data on the hub."""
    if not name:
        return name
    place = matching_files(base, name)[0]
    try:
        return str(place) if place.is_dir() else name
    except (OSError, ValueError):
        return name
