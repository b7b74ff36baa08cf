"""Folders whose names mean something in URLs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sweeper.commands.run import tracking_store
from sweeper.config.study import TrackingConfig
from sweeper.foundation.databases import sqlite_path, sqlite_url
from sweeper.records.layout import StudyPaths
from sweeper.search.storage import close_storage, open_storage
from sweeper.tracking.mlflow_store import MlflowStore, connect

NAMES = ("q?x", "c#1", "a%20b", "50%", "ü ß 字", "{a}", "a&b=c;d", "a+b@c:d")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_keeps_its_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "study.db"
    close_storage(open_storage(file))
    assert file.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sqlite_path(sqlite_url(file)) == file


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made in an odd folder, to copy."""
    file = tmp_path_factory.mktemp("tables") / "q?x%3F" / "mlflow.db"
    connect(sqlite_url(file))
    assert [path.name for path in file.parents[1].iterdir()] == [file.parent.name]
    return file


@pytest.mark.parametrize("name", NAMES)
def test_path_question_mark_and_path_hash_leave_nothing_beside_the_folder(
    tmp_path: Path, tables: Path, name: str
) -> None:
    paths = StudyPaths(tmp_path / name / "runs", "tiny")
    paths.directory.mkdir(parents=True)
    shutil.copy(tables, paths.mlflow)
    place = tracking_store(TrackingConfig(), paths)
    store = MlflowStore(place.uri, place.experiment, place.artifacts)
    store.open()
    run = store.create({"sweeper.study": "tiny"}, 1)
    store.add_text(run, "note.txt", "text")
    again = MlflowStore(place.uri, place.experiment, place.artifacts)
    again.open()
    assert [found.id for found in again.find({"sweeper.study": "tiny"})] == [run.id]
    [note] = paths.mlflow_artifacts.rglob("note.txt")
    assert note.read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in (tmp_path / name / "runs").iterdir()} <= {
        *("tiny", "mlflow.db", ".mlflow.db.lock", "mlflow-artifacts"),
    }
