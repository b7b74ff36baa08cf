"""Names and order of a study's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.config.names import is_name
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
    files += [study.manifest, study.optuna, study.lock, study.mlflow, study.mlflow_artifacts]
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


def test_an_attempt_is_kept_inside_its_trial() -> None:
    job = JobPaths(Path("x"))
    assert job.attempt(2).log == Path("x/attempts/2/log.txt")
