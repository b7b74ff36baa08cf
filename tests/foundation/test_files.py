"""Files that are replaced whole, and files of JSON lines that grow while they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeper.foundation.files import (
    append_json_line,
    read_json_lines,
    remove_leftovers,
    write_text_atomically,
)


def test_a_file_is_replaced_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "outcome.json"
    write_text_atomically(path, "one ä")
    write_text_atomically(path, "two")
    assert path.read_text(encoding="utf-8") == "two"
    assert os.listdir(path.parent) == ["outcome.json"]


def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    write_text_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "new \ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["outcome.json"]


def test_rows_are_read_as_they_grow(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    assert read_json_lines(path) == ([], 0)
    append_json_line(path, {"a": 1, "text": "ä\n\u2028"})
    rows, position = read_json_lines(path)
    assert rows == [{"a": 1, "text": "ä\n\u2028"}]
    assert read_json_lines(path, position) == ([], position)
    append_json_line(path, {"a": 2})
    rows, position = read_json_lines(path, position)
    assert rows == [{"a": 2}]


def test_a_row_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_bytes('{"a": 1}\n{"b": "ä'.encode()[:-1])
    rows, position = read_json_lines(path)
    assert (rows, position) == ([{"a": 1}], 9)
    with path.open("ab") as file:
        file.write(b'\xa4"}\n')
    assert read_json_lines(path, position)[0] == [{"b": "ä"}]


def test_a_file_is_readable_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text_atomically(tmp_path / "report.md", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "report.md").stat().st_mode & 0o777 == 0o640


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [".hidden", "spec.json", ".spec.json", "trainer"]
    gone = [f".spec.json.{'0a' * 16}", ".trainer.xyz/checkpoint/file"]
    for name in [*kept, *gone]:
        path = tmp_path / "runs" / "arm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(kept)
    assert not (tmp_path / "runs" / "arm" / ".trainer.xyz").exists()


def test_nothing_is_appended_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    path = tmp_path / "progress.jsonl"
    path.symlink_to(outside)
    with pytest.raises(OSError, match="symbolic links"):
        append_json_line(path, {"a": 1})
    assert outside.read_text() == "mine"
