"""From files to checked configuration: every problem at once, each with its place."""

from __future__ import annotations

import copy
import types
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sweeper.config.base import expectation, short
from sweeper.config.names import NAME_PATTERN
from sweeper.config.placeholders import left_over
from sweeper.config.settings import METHODS, MethodSettings, likely_meant, unknown_name
from sweeper.config.study import StudyConfig
from sweeper.config.suite import SuiteConfig
from sweeper.config.yaml_file import KeyPath, YamlFile, read
from sweeper.foundation.errors import ConfigError, Problem
from sweeper.foundation.secrets import is_secret_name

Model = TypeVar("Model", bound=BaseModel)
DATA_SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")
"""A path that ends so is a local file, not the name of a dataset on the hub."""


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
    overrides: tuple[str, ...] = ()
    """The ``key.path=value`` assignments that ``config`` holds beside the file."""


def load_study(path: Path, overrides: Sequence[str] = ()) -> LoadedStudy:
    """Read and check a study file and the suites that it names.

    Args:
        path: The study file.
        overrides: ``key.path=value`` assignments that win over the file.

    Raises:
        ConfigError: Lists everything that is wrong, in all files.
    """
    file = read(path)
    problems: list[Problem] = []
    for assignment in overrides:
        try:
            file.override(assignment)
        except ConfigError as error:
            problems.extend(error.problems)
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
    test = suites.get("test")
    if config is not None and config.confirms() and test and test.config.aggregate != "mean":
        message = (
            "expected a suite with aggregate: mean, because winners are compared document by"
            f" document, found {test.config.aggregate} in {test.path} (or set confirm.seeds: 0)"
        )
        problems.append(file.problem(("evaluation", "test"), message))
    _check_files(file, path, problems)
    problems.extend(left_over(file))
    if problems or config is None:
        raise ConfigError(problems)
    return LoadedStudy(
        config, path, file, suites["selection"], suites.get("test"), tuple(overrides)
    )


def load_suite(path: Path) -> LoadedSuite:
    """Read and check a suite file.

    Raises:
        ConfigError: Lists everything that is wrong.
    """
    file = read(path)
    problems = left_over(file)
    config = _validate(SuiteConfig, file, problems)
    if problems or config is None:
        raise ConfigError(problems)
    return LoadedSuite(config, path)


def check(model: type[Model], file: YamlFile) -> Model:
    """Check a file's values.

    Raises:
        ConfigError: Lists everything that is wrong.
    """
    problems: list[Problem] = []
    config = _validate(model, file, problems)
    if config is None:
        raise ConfigError(problems)
    return config


def find_file(name: str, study_file: Path) -> Path | None:
    """Where a path written in a study file lies: in the working directory, or beside the study."""
    for base in (Path(), study_file.parent):
        candidate = base / name
        try:
            if candidate.is_file():
                return candidate
        except OSError:
            continue  # A name too long, or a folder that may not be read.
    return None


def schema() -> dict[str, Any]:
    """The JSON Schema of a study file, for editors."""
    schema = StudyConfig.model_json_schema()
    # The short forms: `sampler: grid`, and an arm whose name says its method.
    sampler = schema["properties"]["sampler"]
    types = schema["$defs"]["SamplerConfig"]["properties"]["type"]
    sampler["anyOf"] = [{"$ref": sampler.pop("$ref")}, {"enum": types["enum"]}]
    settings = schema["$defs"]["ArmConfig"]["properties"]["settings"]
    settings["properties"] = MethodSettings.model_json_schema()["properties"]
    of_method = copy.deepcopy(schema["$defs"]["ArmConfig"])
    of_method.pop("required")
    schema["$defs"]["NamedArmConfig"] = of_method
    named = {"anyOf": [{"$ref": "#/$defs/NamedArmConfig"}, {"type": "null"}]}
    schema["properties"]["arms"]["properties"] = {method: named for method in METHODS}
    arms = schema["properties"]["arms"].pop("patternProperties")
    schema["properties"]["arms"]["additionalProperties"] = next(iter(arms.values()))
    schema["properties"]["arms"]["propertyNames"] = {"pattern": NAME_PATTERN}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _load_suite(
    file: YamlFile, key: KeyPath, name: str, study_file: Path, problems: list[Problem]
) -> LoadedSuite | None:
    found = find_file(name, study_file)
    if found is None:
        looked = f"the working directory and {study_file.parent}"
        problems.append(
            file.problem(key, f"expected a suite file, found no file {short(name)} in {looked}")
        )
        return None
    try:
        return load_suite(found)
    except ConfigError as error:
        problems.extend(error.problems)
        return None


def _check_files(file: YamlFile, path: Path, problems: list[Problem]) -> None:
    """Check the names of files, built-in data and built-in models, whatever else is wrong."""
    from sweeper.config.builtin import DATASETS, MODELS, PACKED_MODELS

    key: KeyPath = ("data", "train", "path")
    source = _value(file.values, key)
    if isinstance(source, str):
        if source.endswith(DATA_SUFFIXES) and find_file(source, path) is None:
            looked = f"the working directory and {path.parent}"
            message = f"expected a data file, found no file {short(source)} in {looked}"
            problems.append(file.problem(key, message))
        _check_builtin("data", source, DATASETS, key, file, problems)
    for key, model in _models(file.values):
        _check_builtin("model", model, (*MODELS, *PACKED_MODELS), key, file, problems)


def _models(values: dict[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    """Every model that the study names, well-formed or not."""
    for role in ("teacher", "student"):
        yield (role, "model"), _value(values, (role, "model"))
    arms = values.get("arms")
    for arm in arms if isinstance(arms, dict) else ():
        key: KeyPath = ("arms", arm, "settings", "teacher.model")
        yield key, _value(values, key)
        key = ("arms", arm, "search", "teacher.model", "choices")
        choices = _value(values, key)
        for index, model in enumerate(choices if isinstance(choices, list) else ()):
            yield (*key, index), model


def _check_builtin(
    kind: str,
    name: Any,
    known: Collection[str],
    key: KeyPath,
    file: YamlFile,
    problems: list[Problem],
) -> None:
    if not isinstance(name, str) or not name.startswith("builtin/"):
        return
    name = name.removeprefix("builtin/")
    if name not in known:
        message = f"unknown built-in {kind} {short(name)}; expected one of {', '.join(known)}"
        problems.append(file.problem(key, message))


def _value(values: Any, key: KeyPath) -> Any:
    """What stands at ``key``, or None."""
    for part in key:
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _validate(model: type[Model], file: YamlFile, problems: list[Problem]) -> Model | None:
    try:
        return model.model_validate(file.values)
    except ValidationError as error:
        problems.extend(_problems(model, file, error))
        return None


def _problems(model: type[Model], file: YamlFile, error: ValidationError) -> Iterator[Problem]:
    expected: dict[KeyPath, list[str]] = {}
    found: list[tuple[KeyPath, str | None, Any]] = []
    meant: set[KeyPath] = set()
    """Keys that stand in the file under a misspelt name."""
    every = error.errors(include_url=False)
    for details in every:
        if details["type"] == "too_short" and any(_is_below(other, details) for other in every):
            continue  # Entries that are wrong are not counted; they have messages of their own.
        path, parent = _follow(model, details["loc"])
        message = _message(details, parent)
        if details["type"] == "extra_forbidden" and _is_model(parent):
            name = likely_meant(str(path[-1]), list(parent.model_fields))
            meant.add((*path[:-1], name or ""))
        if message is None:
            # Each member of a union says what it expects; together they are one message.
            expected.setdefault(path, []).append(expectation(details))
            if len(expected[path]) > 1:
                continue
        if details["type"].startswith("union_tag") and _value(file.values, (*path, "type")):
            path = (*path, "type")
        found.append((path, message, details["input"]))
    for path, message, value in found:
        if message == _MISSING and path in meant:
            continue
        if message is None:
            wanted = list(dict.fromkeys(expected[path]))
            secret = any(is_secret_name(str(part)) for part in path)
            shown = "something else" if secret else short(value)
            message = f"expected {' or '.join(wanted)}, found {shown}"
        yield file.problem(path, message)


def _is_below(inner: ErrorDetails, outer: ErrorDetails) -> bool:
    depth = len(outer["loc"])
    return len(inner["loc"]) > depth and inner["loc"][:depth] == outer["loc"]


_MISSING = "required, but missing"


def _message(details: ErrorDetails, parent: Any) -> str | None:
    """The message, or None where it is made from what was expected and what was found."""
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        known = list(parent.model_fields) if _is_model(parent) else []
        return unknown_name(str(details["loc"][-1]), known)
    if kind == "missing":
        return _MISSING
    if kind in ("sweeper", "not_json"):
        return details["msg"]
    if kind == "recursion_loop":
        return "expected a value that does not contain itself"
    if kind == "invalid_key":
        return f"expected a key that is a string, found {short(details['loc'][-1])}"
    if kind.startswith("union_tag"):
        tags = details.get("ctx", {}).get("expected_tags", _SPACE_TYPES)
        tag = value.get("type") if isinstance(value, dict) else value
        rule = tags if tag is not None else f"a mapping with type: {tags}"
        return f"expected {rule}, found {short(value if tag is None else tag)}"
    if details.get("ctx", {}).get("pattern") == NAME_PATTERN:
        rule = "a name of letters, digits, '.', '_' and '-', at most 64, the first no sign"
        return f"expected {rule}, found {short(value)}"
    return None


_SPACE_TYPES = "'float', 'int', 'categorical'"


def _follow(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[KeyPath, Any]:
    """Turn pydantic's location into a key path, and find the model that holds its last key.

    Pydantic puts the tag or the class of a union's member into the location; no file has such a
    key.
    """
    path: list[str | int] = []
    here: Any = model
    holder: Any = model
    for part in location:
        if part == "[key]":
            continue
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
        elif members and isinstance(part, str) and ("[" in part or part in _SCALARS):
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


_SCALARS = ("bool", "int", "float", "str")


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
