from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeper.config.names import is_name
from sweeper.foundation.files import (
    append_json_line,
    read_json_lines,
    remove_leftovers,
    write_text_atomically,
)
from sweeper.records.layout import JobPaths, StudyPaths


@pytest.mark.parametrize("name", ["a", "gkd-0.5", "A_b.c-9", "x" * 64, "0"])
def test_names_that_are_safe_as_file_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", "_a", ".a", "a/b", "a b", "a\n", "ä", "x" * 65, "a\\b", "a\0"]
)
def test_names_that_could_leave_their_folder_are_refused(name: str, tmp_path: Path) -> None:
    assert not is_name(name)
    with pytest.raises(ValueError, match="study's name must match"):
        StudyPaths(tmp_path, name)
    with pytest.raises(ValueError, match="arm's name must match"):
        StudyPaths(tmp_path, "study").trial(name, 0)


def test_no_two_files_of_a_study_share_a_name(tmp_path: Path) -> None:
    study = StudyPaths(tmp_path, "s")
    jobs = [study.trial("gkd", 0), study.trial("gkd", 1), study.trial("sft", 0)]
    jobs += [study.preparation(step) for step in ("data", "teacher", "student")]
    jobs += [study.trial("gkd", 0).attempt(1), study.trial("gkd", 0).attempt(2)]
    names = ("spec", "progress", "outcome", "log", "documents", "samples", "recorded", "lock")
    files = [getattr(job, name) for job in jobs for name in names]
    files += [study.snapshot, study.optuna, study.lock, study.mlflow, study.mlflow_artifacts]
    assert len(set(files)) == len(files)
    assert all(file.is_relative_to(tmp_path) for file in files)


def test_the_trials_of_an_arm_come_in_their_order(tmp_path: Path) -> None:
    study = StudyPaths(tmp_path, "s")
    assert list(study.trials("gkd")) == []
    for number in (2, 0, 11, 1):
        study.trial("gkd", number).directory.mkdir(parents=True)
    (tmp_path / "s" / "arms" / "gkd" / ".tmp").mkdir()
    assert [number for number, _ in study.trials("gkd")] == [0, 1, 2, 11]
    assert dict(study.trials("gkd"))[11] == study.trial("gkd", 11)


def test_more_than_ten_thousand_trials_come_in_their_order(tmp_path: Path) -> None:
    study = StudyPaths(tmp_path, "s")
    for number in (9_999, 10_000):
        study.trial("gkd", number).directory.mkdir(parents=True)
    assert [number for number, _ in study.trials("gkd")] == [9_999, 10_000]


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


def test_an_attempt_is_kept_inside_its_trial() -> None:
    job = JobPaths(Path("x"))
    assert job.attempt(2).log == Path("x/attempts/2/log.txt")


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
