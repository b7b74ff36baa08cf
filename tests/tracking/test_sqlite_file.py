from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.foundation.databases import sqlite_path
from sweeper.tracking.sqlite_file import make_whole


def test_a_database_whose_making_is_interrupted_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "mlflow.db"

    def interrupted(at: Path) -> None:
        at.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_whole(path, interrupted)
    assert [found.name for found in path.parent.iterdir()] == [".mlflow.db.lock"]

    # A process that was killed leaves its half, which the next one removes.
    path.with_name(".mlflow.db.0123.new").write_text("half")
    path.with_name(".mlflow.db.0123.new-journal").write_text("half")
    make_whole(path, lambda at: at.write_text("whole") and None)
    assert path.read_text() == "whole"
    assert {found.name for found in path.parent.iterdir()} == {".mlflow.db.lock", "mlflow.db"}
    make_whole(path, interrupted)
    assert path.read_text() == "whole"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////runs/mlflow.db", "/runs/mlflow.db"),
        ("sqlite:///runs/mlflow.db", "runs/mlflow.db"),
        ("sqlite:///runs/mlflow.db?timeout=3", "runs/mlflow.db"),
        ("sqlite+pysqlite:///q%3Fx/mlflow.db?timeout=3", "q?x/mlflow.db"),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("postgresql://me@host/mlflow", None),
        ("http://127.0.0.1:5000", None),
    ],
)
def test_the_file_of_a_uri(uri: str, path: str | None) -> None:
    assert sqlite_path(uri) == (None if path is None else Path(path))
