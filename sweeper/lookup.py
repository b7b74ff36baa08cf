"""A study's record, from what a user names: a study file, a folder, or a report's records."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

from sweeper import records_file
from sweeper.config.loading import LoadedStudy, load_study
from sweeper.errors import ConfigError, Problem
from sweeper.history import read_study
from sweeper.paths import StudyPaths, is_name
from sweeper.snapshot import read_snapshot
from sweeper.study_record import StudyRecord


def record_of_study(study: LoadedStudy, runs: Path) -> StudyRecord:
    """What is recorded of a study below ``runs``.

    Raises:
        ConfigError: It has not been run.
    """
    return _read(StudyPaths(runs, study.config.study), str(study.path))


def find_record(named: Path, runs: Path) -> StudyRecord:
    """What is recorded of the study that a user named.

    Args:
        named: A study file; ``records.json.gz`` of a report; a report's folder with such a file;
            or a study's own folder below a ``runs`` folder.
        runs: Where the studies of study files are recorded.

    Raises:
        ConfigError: There is no record, or it is damaged.
    """
    if named.is_dir():
        if (named / records_file.NAME).is_file():
            return records_file.read_records(named / records_file.NAME)
        place = named.resolve()
        paths = StudyPaths(place.parent, place.name) if is_name(place.name) else None
        if paths is None or not paths.snapshot.is_file():
            message = (
                "expected the folder of a report or of a study that was run, found neither"
                f" {records_file.NAME} nor study.json in it"
            )
            raise ConfigError([Problem(source=str(named), message=message)])
        return _read(paths, str(named))
    if named.suffix == ".gz":
        return records_file.read_records(named)
    return record_of_study(load_study(named, []), runs)


def find_records(named: Sequence[Path], runs: Path) -> list[StudyRecord]:
    """The records of several studies, each found as ``find_record`` does.

    Raises:
        ConfigError: One is not there or is damaged, there are fewer than two, or two are the same.
    """
    if len(named) < 2:
        message = f"expected two studies or more to compare, found {len(named)}"
        raise ConfigError([Problem(source=str(named[0]), message=message)])
    records = [find_record(one, runs) for one in named]
    for number, record in enumerate(records):
        for other, path in zip(records[:number], named, strict=False):
            if _identity(record) == _identity(other):
                message = f"expected another study, found the one of {path} again"
                raise ConfigError([Problem(source=str(named[number]), message=message)])
    return records


def _identity(record: StudyRecord) -> tuple[str, float]:
    return record.study, record.provenance.started


def _read(paths: StudyPaths, source: str) -> StudyRecord:
    snapshot = read_snapshot(paths)
    if snapshot is None:
        message = f"the study {paths.study!r} has not been run: nothing in {paths.directory}"
        raise ConfigError([Problem(source=source, message=message)])
    # None of ten thousand trials is garbage: to look for some is a quarter of the command's time.
    gc.disable()
    try:
        return read_study(paths, snapshot)
    finally:
        gc.freeze()
        gc.enable()
