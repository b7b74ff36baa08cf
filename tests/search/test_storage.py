"""Folders whose names mean something in URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.foundation.databases import sqlite_url
from sweeper.search.storage import close_storage, open_storage
from sweeper.tracking.sqlite_file import sqlite_path


@pytest.mark.parametrize(
    "name", ["q?x", "c#1", "a%20b", "50%", "ü ß 字", "{a}", "a&b=c;d", "a+b@c:d"]
)
def test_a_folder_keeps_its_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "study.db"
    close_storage(open_storage(file))
    assert file.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sqlite_path(sqlite_url(file)) == file
