"""From files to checked configuration: every problem at once, each with its place."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sweeper.config.settings import unknown_name
from sweeper.config.study import StudyConfig
from sweeper.config.suite import SuiteConfig
from sweeper.config.yaml_file import KeyPath, YamlFile, read
from sweeper.errors import ConfigError, Problem
from sweeper.paths import NAME_PATTERN

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class LoadedSuite:
    """A suite and the folder that its relative paths start from."""

    config: SuiteConfig
    path: Path

    @property
    def task_directories(self) -> list[Path]:
        """The folders with the suite's own task files."""
        return [(self.path.parent / folder).resolve() for folder in self.config.task_paths]


@dataclass(frozen=True)
class LoadedStudy:
    """A study file, checked, with its suites."""

    config: StudyConfig
    path: Path
    file: YamlFile
    """The file's values and places, for messages about them."""
    selection: LoadedSuite
    test: LoadedSuite | None


def load_study(path: Path, overrides: Sequence[str] = ()) -> LoadedStudy:
    """Read and check a study file and the suites that it names.

    Args:
        path: The study file.
        overrides: ``key.path=value`` assignments that win over the file.

    Raises:
        ConfigError: Lists everything that is wrong, in all files.
    """
    file = read(path)
    for assignment in overrides:
        file.override(assignment)
    problems: list[Problem] = []
    config = _validate(StudyConfig, file, problems)
    suites: dict[str, LoadedSuite] = {}
    # Suites are read even when the study is broken, so that one run shows every problem.
    evaluation = file.values.get("evaluation")
    for role in ("selection", "test"):
        name = evaluation.get(role) if isinstance(evaluation, dict) else None
        if isinstance(name, str) and name:
            suite = _load_suite(file, ("evaluation", role), name, path, problems)
            if suite:
                suites[role] = suite
    if config is not None:
        _check_files(config, file, path, problems)
    if problems or config is None:
        raise ConfigError(problems)
    return LoadedStudy(config, path, file, suites["selection"], suites.get("test"))


def load_suite(path: Path) -> LoadedSuite:
    """Read and check a suite file.

    Raises:
        ConfigError: Lists everything that is wrong.
    """
    file = read(path)
    problems: list[Problem] = []
    config = _validate(SuiteConfig, file, problems)
    if config is None:
        raise ConfigError(problems)
    return LoadedSuite(config, path)


def find_file(name: str, study_file: Path) -> Path | None:
    """Where a path written in a study file lies: in the working directory, or beside the study."""
    for base in (Path(), study_file.parent):
        candidate = base / name
        if candidate.is_file():
            return candidate
    return None


def schema() -> dict[str, Any]:
    """The JSON Schema of a study file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **StudyConfig.model_json_schema(),
    }


def _load_suite(
    file: YamlFile, key: KeyPath, name: str, study_file: Path, problems: list[Problem]
) -> LoadedSuite | None:
    found = find_file(name, study_file)
    if found is None:
        looked = f"the working directory and {study_file.parent}"
        problems.append(
            file.problem(key, f"expected a suite file, found no file {name!r} in {looked}")
        )
        return None
    try:
        return load_suite(found)
    except ConfigError as error:
        problems.extend(error.problems)
        return None


def _check_files(config: StudyConfig, file: YamlFile, path: Path, problems: list[Problem]) -> None:
    source = config.data.train.path
    if (
        Path(source).suffix in (".json", ".jsonl", ".parquet", ".csv")
        and find_file(source, path) is None
    ):
        looked = f"the working directory and {path.parent}"
        key = ("data", "train", "path")
        problems.append(
            file.problem(key, f"expected a data file, found no file {source!r} in {looked}")
        )
    if source.startswith("builtin/"):
        from sweeper.builtin import DATASETS

        name = source.removeprefix("builtin/")
        if name not in DATASETS:
            message = f"unknown built-in data {name!r}; expected one of {', '.join(DATASETS)}"
            problems.append(file.problem(("data", "train", "path"), message))
    for role in ("teacher", "student"):
        model = getattr(config, role).model
        if model.startswith("builtin/"):
            from sweeper.builtin import MODELS

            name = model.removeprefix("builtin/")
            if name not in MODELS:
                message = f"unknown built-in model {name!r}; expected one of {', '.join(MODELS)}"
                problems.append(file.problem((role, "model"), message))


def _validate(model: type[Model], file: YamlFile, problems: list[Problem]) -> Model | None:
    try:
        return model.model_validate(file.values)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            location, parent = _follow(model, details["loc"])
            message = _message(details, parent)
            problems.append(file.problem(location, message))
        return None


def _message(details: ErrorDetails, parent: Any) -> str:
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        known = list(parent.model_fields) if _is_model(parent) else []
        return unknown_name(str(details["loc"][-1]), known)
    if kind == "missing":
        return "required, but missing"
    if kind == "sweeper":
        return details["msg"]
    if kind.startswith("union_tag"):
        expected = details.get("ctx", {}).get("expected_tags", "'float', 'int', 'categorical'")
        found = value.get("type") if isinstance(value, dict) else value
        return f"expected a mapping with type: one of {expected}, found {_short(found)}"
    if details.get("ctx", {}).get("pattern") == NAME_PATTERN:
        rule = "a name of letters, digits, '.', '_' and '-', at most 64, the first no sign"
        return f"expected {rule}, found {_short(value)}"
    message = details["msg"]
    for prefix in ("Input should be ", "Value error, "):
        message = message.replace(prefix, "expected " if prefix.startswith("Input") else "")
    message = message[0].lower() + message[1:]
    return f"{message}, found {_short(value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _follow(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[KeyPath, Any]:
    """Turn pydantic's location into a key path, and find the model that holds its last key.

    Pydantic puts the tag or the class of a union's member into the location; no file has such a
    key.
    """
    path: list[str | int] = []
    here: Any = model
    holder: Any = model
    for part in location:
        if _is_model(here) and not isinstance(part, int):
            holder = here
            field = here.model_fields.get(part)
            path.append(part)
            here = _plain(field.annotation) if field else None
            continue
        members = [_plain(member) for member in get_args(here)] if _is_union(here) else []
        named = [m for m in members if _member_name(m, part)]
        if named:
            here = named[0]
        elif members and (
            mapping := [m for m in members if _is_model(m) and part in m.model_fields]
        ):
            here = _plain(mapping[0].model_fields[part].annotation)
            holder = mapping[0]
            path.append(part)
        elif (isinstance(part, str) and members and "[" in part) or part in (
            "bool",
            "int",
            "float",
            "str",
        ):
            continue
        else:
            arguments = get_args(here)
            path.append(part)
            holder = here
            here = (
                _plain(arguments[-1] if get_origin(here) is dict else arguments[0])
                if arguments
                else None
            )
    return tuple(path), holder


def _plain(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if _is_union(annotation):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return _plain(members[0]) if len(members) == 1 else annotation
    return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _member_name(member: Any, part: int | str) -> bool:
    """Whether ``part`` of a location names this member of a union: its tag or its class."""
    if not _is_model(member):
        return False
    tag = member.model_fields.get("type")
    return part == member.__name__ or (tag is not None and part in get_args(tag.annotation))
