"""From files to checked configuration: every problem at once, each with its place."""

from __future__ import annotations

import copy
import filecmp
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeper.config.base import KeyPath, short
from sweeper.config.device_defaults import DeviceDefaults
from sweeper.config.evaluation import ScoringEngine
from sweeper.config.names import NAME_PATTERN
from sweeper.config.placeholders import left_over
from sweeper.config.refusals import refusals
from sweeper.config.settings import METHODS, MethodSettings
from sweeper.config.study import StudyConfig
from sweeper.config.suite import SuiteConfig
from sweeper.config.validation import Model, validate, value_at
from sweeper.config.yaml_file import YamlFile, read
from sweeper.foundation.data_folders import (
    COMPRESSED,
    PLACES,
    SUFFIXES,
    is_data_file,
    looks_local,
)
from sweeper.foundation.errors import ConfigError, Problem


@dataclass(frozen=True)
class LoadedSuite:
    """A suite and the folder that its relative paths start from."""

    config: SuiteConfig
    path: Path
    engine: ScoringEngine = "transformers"
    """What computes the scores of the study that names it."""

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
    """The ``key.path=value`` assignments that ``config`` holds next to the file."""
    device_defaults: DeviceDefaults | None = None
    """What ``config`` takes from the devices of trials; None before they were looked at."""


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
    config = validate(StudyConfig, file, problems)
    suites: dict[str, LoadedSuite] = {}
    # Suites are read even when the study is broken, so that one run shows every problem.
    evaluation = file.values.get("evaluation")
    for role in ("selection", "test"):
        name = evaluation.get(role) if isinstance(evaluation, dict) else None
        if isinstance(name, str) and name:
            suite = _load_suite(file, ("evaluation", role), name, path, problems)
            if suite:
                engine = config.evaluation.engine if config else suite.engine
                suites[role] = replace(suite, engine=engine)
    test = suites.get("test")
    if config is not None and config.confirms() and test and test.config.aggregate != "mean":
        message = (
            "expected a suite with aggregate: mean, because winners are compared document by"
            f" document, found {test.config.aggregate} in {test.path} (or set confirm.seeds: 0)"
        )
        problems.append(file.problem(("evaluation", "test"), message))
    if config is not None:
        problems += [file.problem(place, message) for place, message in refusals(config)]
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
    config = validate(SuiteConfig, file, problems)
    if problems or config is None:
        raise ConfigError(problems)
    return LoadedSuite(config, path)


def check(model: type[Model], file: YamlFile) -> Model:
    """Check a file's values.

    Raises:
        ConfigError: Lists everything that is wrong.
    """
    problems: list[Problem] = []
    config = validate(model, file, problems)
    if config is None:
        raise ConfigError(problems)
    return config


def find_file(name: str, named_by: Path) -> Path | None:
    """Return the file that another names: beside it, else in the working directory."""
    return _find(name, named_by, Path.is_file)


def find_data(name: str, named_by: Path) -> Path | None:
    """Return the local file or folder of rows that a file names, found as ``find_file`` does."""
    if not is_data_file(name):
        return _find(name, named_by, Path.is_dir)
    return _find(name, named_by, Path.exists)


def find_model(name: str, named_by: Path) -> Path | None:
    """Return the local folder of a model that a file names, found as ``find_file`` does."""
    if name.startswith("builtin/"):
        return None
    return _find(name, named_by, lambda path: (path / "config.json").is_file())


def _find(name: str, named_by: Path, fits: Callable[[Path], bool]) -> Path | None:
    if "\0" in name or not name:
        return None
    try:
        place = Path(name).expanduser()
    except RuntimeError:  # no such user
        place = Path(name)
    for base in (named_by.parent, Path()):
        try:
            if fits(base / place):
                return base / place
        except OSError:
            continue  # A name too long, or a folder that may not be read.
    return None


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a study file, for editors."""
    schema = StudyConfig.model_json_schema()
    # The short forms: `sampler: grid`, and an arm whose name says its method.
    for name, of in (("sampler", "type"), ("pruner", "type"), ("collapse", "action")):
        block = schema["properties"][name]
        values = schema["$defs"][block["$ref"].rpartition("/")[2]]["properties"][of]["enum"]
        block["anyOf"] = [{"$ref": block.pop("$ref")}, {"enum": values}]
    properties = schema["$defs"]["ArmConfig"]["properties"]
    start = properties["start_with"]
    # An earlier study would pass as settings too, so that `oneOf` would refuse it.
    entry = {"anyOf": start["items"].pop("oneOf")}
    start["anyOf"] = [entry, {"type": start.pop("type"), "items": entry}]
    del start["items"]
    settings = properties["settings"]
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
    _check_one(name, study_file, find_file, key, file, problems)
    if found is None:
        looked = f"{study_file.parent} and the working directory"
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
    source = value_at(file.values, key)
    if isinstance(source, str):
        if looks_local(source) and find_data(source, path) is None:
            problems.append(file.problem(key, _no_data(source, path)))
        _check_one(source, path, find_data, key, file, problems)
        _check_builtin("data", source, DATASETS, key, file, problems)
    for key, model in _models(file.values):
        _check_builtin("model", model, (*MODELS, *PACKED_MODELS), key, file, problems)
        if isinstance(model, str):
            if model.startswith(PLACES) and find_model(model, path) is None:
                looked = f"{path.parent} and the working directory"
                message = f"expected a folder with a model, found none {short(model)} in {looked}"
                problems.append(file.problem(key, message))
            _check_one(model, path, find_model, key, file, problems)


def _check_one(
    name: str,
    named_by: Path,
    find: Callable[[str, Path], Path | None],
    key: KeyPath,
    file: YamlFile,
    problems: list[Problem],
) -> None:
    """Refuse a relative name that means two things: beside the file, and where the command runs."""
    beside, here = find(name, named_by), find(name, Path("study.yaml"))
    if beside is None or here is None or beside.resolve() == here.resolve():
        return
    if beside.is_file() and here.is_file() and filecmp.cmp(beside, here, shallow=False):
        return
    message = (
        f"expected one place, found {short(name)} both next to {named_by.name} and in the working"
        f" directory {Path().resolve()}: rename one, or write an absolute path"
    )
    problems.append(file.problem(key, message))


def _no_data(source: str, path: Path) -> str:
    if not is_data_file(source) and find_file(source, path):
        suffixes = ", ".join((*SUFFIXES, *COMPRESSED))
        return f"expected a file of rows ({suffixes}), found {short(source)}"
    looked = f"{path.parent} and the working directory"
    kind = "file" if is_data_file(source) else "folder"
    return f"expected a file or folder of rows, found no {kind} {short(source)} in {looked}"


def _models(values: dict[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every model that the study names, well-formed or not."""
    for role in ("teacher", "student"):
        yield (role, "model"), value_at(values, (role, "model"))
    arms = values.get("arms")
    for arm in arms if isinstance(arms, dict) else ():
        key: KeyPath = ("arms", arm, "settings", "teacher.model")
        yield key, value_at(values, key)
        key = ("arms", arm, "search", "teacher.model", "choices")
        choices = value_at(values, key)
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
