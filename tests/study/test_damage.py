"""Files of a study that were cut short between two runs: a full disk, a power cut, a bad copy."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config.loading import load_study
from sweeper.foundation.errors import ConfigError, SweeperError
from sweeper.records.layout import JobPaths, StudyPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.records.study_record import StudyRecord
from sweeper.reporting.markdown.report import write_report
from sweeper.reporting.report_data import ReportData
from sweeper.reporting.tables.trials import StatusView
from sweeper.study.manifest import read_manifest
from sweeper.study.results import read_study
from sweeper.study.retries import MOST
from tests.support.memory_tracker import MemoryStore, MemoryTracker
from tests.support.writing_executor import ARMS, WritingExecutor, check, go_on, params

WriteStudy = Callable[..., Path]


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def look(study_file: Path) -> StudyRecord:
    """What ``status`` and ``report`` do."""
    paths = StudyPaths(study_file.parent / "runs", load_study(study_file).config.study)
    manifest = read_manifest(paths)
    assert manifest is not None
    record = read_study(paths, manifest)
    assert StatusView(record)
    assert write_report(ReportData.of(record), study_file.parent / "reports")
    return record


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
@pytest.mark.parametrize("share", [pytest.param(0.0, marks=pytest.mark.soak), 0.5])
@pytest.mark.parametrize("name", ["outcome", "spec", "progress"])
def test_a_trial_whose_file_was_cut_short_is_there_once_again(
    write_study: WriteStudy, name: str, share: float, recorded: bool
) -> None:
    study_file = write_study(trials=3, sampler={"type": "tpe", "startup_trials": 1}, arms=ARMS)
    store = MemoryStore()
    whole = go_on(study_file, MemoryTracker("tiny", store), WritingExecutor())
    files = JobPaths(study_file.parent / "runs" / "tiny" / "arms" / "gkd" / "0001")
    cut(getattr(files, name), share)
    if not recorded:
        files.recorded.unlink()
    look(study_file)

    executor = WritingExecutor()
    record = go_on(study_file, MemoryTracker("tiny", store), executor)
    # What was said on the way is lost, and the trial stands; without its spec or outcome it runs.
    assert executor.submitted == ([] if name == "progress" else [("gkd", 1)])
    assert params(record) == params(whole)
    check(study_file, record, store)
    assert params(look(study_file)) == params(whole)


@pytest.mark.parametrize("step", ["data", "teacher", "student"])
@pytest.mark.parametrize("name", ["outcome", "spec"])
def test_a_step_of_the_preparation_whose_file_was_cut_short_is_done_again(
    write_study: WriteStudy, step: str, name: str
) -> None:
    study_file, store = write_study(trials=1), MemoryStore()
    whole = go_on(study_file, MemoryTracker("tiny", store), WritingExecutor())
    files = StudyPaths(study_file.parent / "runs", "tiny").preparation(step)
    cut(getattr(files, name), 0.5)
    look(study_file)
    assert go_on(study_file, MemoryTracker("tiny", store), WritingExecutor()) == whole


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_record_of_the_start_that_was_cut_short_is_told(
    write_study: WriteStudy, share: float
) -> None:
    study_file, store = write_study(trials=1), MemoryStore()
    go_on(study_file, MemoryTracker("tiny", store), WritingExecutor())
    snapshot = StudyPaths(study_file.parent / "runs", "tiny").manifest
    cut(snapshot, share)
    for attempt in (look, lambda at: go_on(at, MemoryTracker("tiny", store), WritingExecutor())):
        with pytest.raises(ConfigError, match="expected the record of how the study was") as told:
            attempt(study_file)
        assert str(snapshot) in str(told.value)


@pytest.mark.parametrize("left", [None, b""], ids=["removed", "emptied"])
def test_a_search_that_has_lost_its_trials_is_told_and_nothing_runs_twice(
    write_study: WriteStudy, left: bytes | None
) -> None:
    study_file = write_study(trials=2, arms=ARMS)
    store = MemoryStore()
    go_on(study_file, MemoryTracker("tiny", store), WritingExecutor())
    database = study_file.parent / "runs" / "tiny" / "study.db"
    kept = database.read_bytes()
    database.unlink()
    if left is not None:
        database.write_bytes(left)
    executor = WritingExecutor()
    with pytest.raises(SweeperError, match=r"lacks trials of arm gkd from #0 on: it has 0, "):
        go_on(study_file, MemoryTracker("tiny", store), executor)
    assert not executor.submitted
    database.write_bytes(kept)
    record = go_on(study_file, MemoryTracker("tiny", store), executor)
    assert not executor.submitted
    check(study_file, record, store)


def test_a_trial_that_optuna_forgot_the_end_of_is_told_again(write_study: WriteStudy) -> None:
    """A power cut may take back the last that a database was told, and leave the mark of it."""
    study_file = write_study(trials=2, arms=ARMS)
    store = MemoryStore()
    go_on(study_file, MemoryTracker("tiny", store), WritingExecutor())
    database = study_file.parent / "runs" / "tiny" / "study.db"
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("update trials set state = 'RUNNING' where number = 1")
    executor = WritingExecutor()
    record = go_on(study_file, MemoryTracker("tiny", store), executor)
    assert not executor.submitted
    check(study_file, record, store)


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "lost"])
def test_a_log_that_nobody_has_cleaned_is_cleaned_before_it_is_used(
    write_study: WriteStudy, ended: bool
) -> None:
    secret = "plainly-a-secret-of-the-file"
    teacher = {"model": "builtin/adder-teacher", "init_kwargs": {"token": secret}}
    study_file = write_study(trials=1, arms=ARMS, teacher=teacher)
    store = MemoryStore()
    go_on(study_file, MemoryTracker("tiny", store), WritingExecutor())
    files = JobPaths(study_file.parent / "runs" / "tiny" / "arms" / "gkd" / "0000")
    files.recorded.unlink()
    if not ended:
        files.outcome.unlink()
        for attempt in range(1, MOST):
            files.attempt(attempt).directory.mkdir(parents=True)
            files.attempt(attempt).lost.touch()
        files.lost.write_text("killed\n")
    files.log.write_text(f"a library prints {secret}\n")
    go_on(study_file, MemoryTracker("tiny", store), WritingExecutor())
    assert files.log.read_text() == "a library prints ***\n"
    assert secret not in files.outcome.read_text()
    outcome = read_outcome(files)
    assert outcome is not None
    assert outcome.state == ("completed" if ended else "failed")
