"""What a study was started with, and whether a changed study file may resume it."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sweeper.config.device_defaults import DeviceDefaults
from sweeper.config.loading import LoadedStudy, LoadedSuite, find_data, find_model
from sweeper.config.models import START
from sweeper.config.own_teachers import named_models
from sweeper.config.server import CHANGE_NO_ANSWER
from sweeper.config.study import StudyConfig
from sweeper.config.task_sources import task_sources
from sweeper.foundation.cache import content_key, directory_hash, file_hash
from sweeper.foundation.data_folders import row_files
from sweeper.foundation.databases import comparable
from sweeper.foundation.environment import git_revision, hardware, package_versions
from sweeper.foundation.errors import BadInputError, ConfigError, Problem, StudyChangedError
from sweeper.foundation.files import write_text_atomically
from sweeper.foundation.secrets import redact_command, redacted, redacted_json
from sweeper.records import EnqueuedSettings, SuiteSpec
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import Provenance


class StudyManifest(BaseModel):
    """``study.json``: the study as it runs, and where it started."""

    model_config = ConfigDict(frozen=True)

    config: StudyConfig
    """Configuration without the passwords of databases."""
    written: dict[str, Any] = {}
    """Part of the configuration that the study file, the command and the devices give, for
    reports."""
    files: dict[str, str]
    """Hashes of the data files, of models in local folders, and of the suites with their tasks."""
    start_with: dict[str, tuple[EnqueuedSettings, ...]] = {}
    """Settings of the first trials by arm, as they were read when the arm began."""
    device_defaults: DeviceDefaults | None = None
    """What the study took from its devices when it started; None in records of old versions, in
    which devices decided nothing."""
    cache_threads: int
    identity: str
    """Random word that no other study has, not even one of the same name."""
    provenance: Provenance


def suite_spec(suite: LoadedSuite) -> SuiteSpec:
    """Return the suite with absolute folders and a hash of its tasks' files and its engine.

    Raises:
        ConfigError: One of the files cannot be read.
    """
    directories = suite.task_directories
    try:
        files = [task_sources(directory) for directory in directories]
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise ConfigError([Problem(source=str(error.filename), message=message)]) from None
    content = {"suite": suite.config.model_dump(mode="json"), "files": files}
    if suite.engine != "transformers":
        content["engine"] = suite.engine
    return SuiteSpec(
        config=suite.config,
        task_directories=tuple(str(directory) for directory in directories),
        content_hash=content_key(content),
    )


def data_files(study: LoadedStudy) -> tuple[str, ...]:
    """Return the absolute path of the local file or folder of rows; none for other sources."""
    path = find_data(study.config.data.train.path, study.path)
    return (str(path.resolve()),) if path else ()


def model_folders(study: LoadedStudy) -> dict[str, str]:
    """Return the absolute folders of the study's local models, by the names in the study."""
    return {model: str(folder) for _, model, folder in _local_models(study)}


def input_files(study: LoadedStudy) -> list[Path]:
    """Return the files and folders of this machine that the study's jobs read."""
    files = [Path(path) for path in data_files(study)]
    for suite in (study.selection, study.test):
        files += suite.task_directories if suite else []
    files += [Path(folder) for folder in model_folders(study).values()]
    return files


def open_manifest(
    study: LoadedStudy,
    paths: StudyPaths,
    command: list[str],
    threads: int,
    start_with: Mapping[str, tuple[EnqueuedSettings, ...]] | None = None,
) -> StudyManifest:
    """Return the study's manifest, updated with what may change; or a new one.

    Until the first trial, anything may change. Then a study resumes with more trials, more arms,
    and other budget, confirmation, compute or tracking settings. Anything else would compare
    results of different studies. ``threads`` are the CPU threads of one job, for a new study;
    ``start_with`` has the settings of the first trials, by arm; None: as recorded.

    Raises:
        StudyChangedError: The recorded study differs; names every difference.
    """
    files = input_hashes(study)
    written = study.config.model_dump(mode="json", exclude_unset=True)
    provenance = Provenance(
        command=redact_command(command),
        study_file=str(study.path),
        started=time.time(),
        git_revision=git_revision(Path()),
        versions=package_versions(),
        hardware=hardware(),
        suite_hashes={
            name.removeprefix("suite "): digest
            for name, digest in files.items()
            if name.startswith("suite ")
        },
    )
    manifest = StudyManifest(
        config=with_scoring_dtype(study.config),
        written=written,
        files=files,
        start_with=dict(start_with or {}),
        device_defaults=study.device_defaults,
        cache_threads=threads,
        identity=uuid.uuid4().hex,
        provenance=provenance,
    )
    if recorded := read_manifest(paths):
        differences, begun = changes(recorded, study, files), has_begun(paths)
        if start_with is None:
            manifest = manifest.model_copy(update={"start_with": recorded.start_with})
        if differences and begun:
            listed = "\n".join(f"  {difference}" for difference in differences)
            raise StudyChangedError(
                f"{study.path}: the study {study.config.study!r} in {paths.directory} was started"
                f" differently:\n{listed}\n"
                "Its results would not compare. Give the study another name, or undo the change"
                " (more trials, new arms, budget, confirm, compute and tracking may change)."
            )
        if differences or (not begun and manifest.start_with != recorded.start_with):
            # Another study begins: trials of the old one must not guide it. In a database of the
            # user's own, the study has another identity and so another name.
            for path in paths.directory.glob("study.db*"):
                path.unlink()
        else:
            changed = {
                "config": with_scoring_dtype(study.config, recorded),
                "written": written,
                "start_with": manifest.start_with,
                "device_defaults": study.device_defaults,
            }
            manifest = recorded.model_copy(update=changed)
    write_text_atomically(paths.manifest, redacted_json(manifest))
    return manifest


def has_begun(paths: StudyPaths) -> bool:
    """Return True if the study has a trial, and so may change only in part."""
    return any(paths.directory.glob("arms/*/*/spec.json"))


def changes(
    recorded: StudyManifest, study: LoadedStudy, files: dict[str, str] | None = None
) -> list[str]:
    """Return the differences from the study's start that make other results, in words.

    ``files`` are hashes of the files that the study names now, if they were computed.
    """
    old, new = recorded.files, input_hashes(study) if files is None else files
    if recorded.config.evaluation.engine != study.config.evaluation.engine:
        # It is in the hashes of suites, and named itself.
        new = {name: digest for name, digest in new.items() if not name.startswith("suite ")}
    return [
        *_differences(
            plain_config(recorded.config), plain_config(with_scoring_dtype(study.config, recorded))
        ),
        *(
            f"{name}: its content changed"
            for name in sorted(set(old) & set(new))
            if old[name] != new[name]
        ),
    ]


def with_scoring_dtype(config: StudyConfig, recorded: StudyManifest | None = None) -> StudyConfig:
    """Return the configuration with the precision that models are scored in.

    A ``recorded`` study that declared none goes on without, unless its file names one now.
    """
    if recorded and not recorded.config.evaluation.dtype and not config.evaluation.dtype:
        return config
    evaluation = config.evaluation.model_copy(update={"dtype": config.scoring_dtype()})
    return config.model_copy(update={"evaluation": evaluation})


def read_manifest(paths: StudyPaths) -> StudyManifest | None:
    """Return the study's manifest, if the study was ever started.

    Raises:
        ConfigError: The file was damaged.
    """
    try:
        text = paths.manifest.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        text = ""
    try:
        return StudyManifest.model_validate(json.loads(text), strict=False)
    except ValueError:
        message = (
            "expected the record of how the study was started, found something else or only a"
            f" part of it. Restore it, or move {paths.directory} away to start the study anew."
        )
        raise ConfigError([Problem(source=str(paths.manifest), message=message)]) from None


def input_hashes(study: LoadedStudy) -> dict[str, str]:
    """Return hashes of the data files, of models in local folders, and of the suites."""
    hashes = {"suite selection": suite_spec(study.selection).content_hash}
    if study.test is not None:
        hashes["suite test"] = suite_spec(study.test).content_hash
    for name in data_files(study):
        hashes[f"data {Path(name).name}"] = _data_hash(Path(name), study)
    for role, model, folder in _local_models(study):
        hashes[f"{role} {model}"] = directory_hash(folder)
    return hashes


def _data_hash(place: Path, study: LoadedStudy) -> str:
    """Return a hash of a file of rows, or of the names and contents of those that a folder has."""
    if not place.is_dir():
        return file_hash(place)
    try:
        files = row_files(place, study.config.data.train.split)
    except BadInputError as error:
        problem = study.file.problem(("data", "train", "path"), str(error))
        raise ConfigError([problem]) from error
    return content_key({str(path.relative_to(place)): file_hash(path) for path in files})


def _local_models(study: LoadedStudy) -> Iterator[tuple[str, str, Path]]:
    """Yield role, name and folder of each model on this machine, arms' own teachers too."""
    config = study.config
    own = [name for arm in config.arms.values() for name in named_models(arm) if name != START]
    # A served teacher's name is no folder, even where there is one of this name.
    of_study = (config.teacher.model,) if config.teacher.has_tokenizer() else ()
    teachers = dict.fromkeys((*of_study, *own))
    for role, model in (
        *(("teacher", name) for name in teachers),
        ("student", config.student.model),
    ):
        if folder := find_model(model, study.path):
            yield role, model, folder.resolve()


def version_changes(manifest: StudyManifest) -> list[str]:
    """Return a warning for each library whose version changed since the study began."""
    before, now = manifest.provenance.versions, package_versions()
    return [
        f"{name} was {before[name]} when this study began and is {now[name]} now:"
        " trials before and after may not compare"
        for name in sorted(before)
        if name in now and before[name] != now[name]
    ]


def plain_config(config: StudyConfig) -> dict[str, Any]:
    """Return the configuration as plain values, without secrets."""
    # Without secrets, as the recorded configuration is: a new token changes nothing.
    plain: dict[str, Any] = redacted(json.loads(config.model_dump_json()))
    if config.storage is not None:
        plain["storage"] = comparable(config.storage)
    return plain


_MAY_CHANGE = ("budget", "compare", "compare_at", "compute", "confirm", "margin", "tracking")
"""Keys that change no trial of the search, except ``compute.devices_per_trial``: a step takes as
many sequences on each device."""


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    differences = []
    for path, before, after in _walk(old, new, ()):
        if path[0] in _MAY_CHANGE and path != ("compute", "devices_per_trial"):
            continue
        if path == ("evaluation", "samples"):
            continue
        if path[:2] == ("teacher", "server") and path[2:] in {(key,) for key in CHANGE_NO_ANSWER}:
            continue
        if path[0] in ("training", "arms") and path[-1] == "checkpoint_every":
            continue
        if path[0] == "arms" and len(path) == 2 and before is _ABSENT:
            continue
        if path[0] == "arms" and path[2:3] == ("budget",):
            continue
        if path[-1] == "trials" and (len(path) == 1 or path[0] == "arms") and len(path) in (1, 3):
            before_trials = before if before is not None else old["trials"]
            after_trials = after if after is not None else new["trials"]
            if after_trials >= before_trials:
                continue
        differences.append(f"{'.'.join(path)}: was {_show(before)}, now {_show(after)}")
    return differences


_ABSENT = object()
"""Value of a key that one of two configurations lacks."""


def _walk(old: Any, new: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        differences = []
        for key in [*old, *(key for key in new if key not in old)]:
            differences += _walk(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, key))
        return differences
    return [] if old == new else [(path, old, new)]


def _show(value: Any) -> str:
    text = "absent" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def command_line() -> list[str]:
    """Return the command line, with the program's path shortened to its name."""
    return [Path(sys.argv[0]).name.replace("__main__.py", "sweeper"), *sys.argv[1:]]
