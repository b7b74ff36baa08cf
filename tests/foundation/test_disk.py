"""How a disk without room shows, in what the libraries say of it."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from sweeper.foundation import disk
from sweeper.foundation.errors import FullDiskError, SweeperError
from sweeper.foundation.files import append_json_line

FULL = Path("/dev/full")
"""A device of Linux on which nothing finds room."""

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def database_without_room(path: Path) -> sqlite3.Connection:
    """A database that cannot grow, which is what a full disk looks like to SQLite."""
    connection = sqlite3.connect(path)
    connection.execute("create table t (x)")
    pages = connection.execute("pragma page_count").fetchone()[0]
    connection.execute(f"pragma max_page_count = {pages}")
    return connection


def test_what_python_and_the_libraries_say_of_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError) as plain:
        append_json_line(FULL, {"text": "x" * 10_000})
    assert disk.is_full(plain.value)
    connection = database_without_room(tmp_path / "small.db")
    with pytest.raises(sqlite3.OperationalError) as rows:
        connection.executemany("insert into t values (?)", [("x" * 5000,)] * 10)
    connection.close()
    assert disk.is_full(rows.value)


def test_the_error_behind_another_one_counts() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/data/file")
        except OSError as inner:
            raise RuntimeError("could not save the model") from inner
    except RuntimeError as error:
        assert disk.is_full(error)
        assert disk.explain(error, Path("/tmp")) == (
            "no space is left on the disk of /data/file; make room there"
        )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        ValueError("full"),
        RuntimeError("disk I/O error"),
    ],
)
def test_other_errors_are_none_about_room(error: Exception, tmp_path: Path) -> None:
    assert not disk.is_full(error, tmp_path)
    with pytest.raises(type(error)), disk.explained(tmp_path):
        raise error


def test_a_full_disk_is_one_message_that_names_where(tmp_path: Path) -> None:
    with pytest.raises(FullDiskError) as told, disk.explained(tmp_path):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    assert str(told.value) == (
        f"no space is left on the disk of {tmp_path}; make room there, and run the same command"
        " again to resume."
    )
    assert isinstance(told.value, SweeperError)
    assert told.value.exit_code == 1
