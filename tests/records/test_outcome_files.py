"""How far a job is, and how it ended, by the files that it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from sweeper.records import Failure, FailureKind, Outcome
from sweeper.records.layout import JobPaths
from sweeper.records.outcome_files import read_completed, read_outcome, read_state


def _outcome(kind: FailureKind | None = None) -> Outcome:
    if kind is None:
        return Outcome(state="completed", started=0, finished=1)
    failure = Failure(kind=kind, message="It broke.")
    return Outcome(state="failed", failure=failure, started=0, finished=1)


def _write(files: JobPaths, outcome: Outcome) -> None:
    files.outcome.write_text(outcome.model_dump_json(), encoding="utf-8")


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    files = JobPaths(tmp_path)
    _write(files, _outcome())
    assert read_outcome(files) == read_completed(files) == _outcome()
    assert read_state(files) == ("completed", _outcome())
    _write(files, _outcome("diverged"))
    assert read_outcome(files) == _outcome("diverged")
    assert read_completed(files) is None
    assert read_state(files) == ("failed", _outcome("diverged"))


@pytest.mark.parametrize("text", ["", "{", "{}", '{"state": "asleep", "started": 0}'])
def test_a_damaged_outcome_counts_as_none(tmp_path: Path, text: str) -> None:
    files = JobPaths(tmp_path)
    files.outcome.write_text(text, encoding="utf-8")
    assert read_outcome(files) is None
    assert read_state(files) == ("waiting", None)


def test_a_job_runs_while_its_process_holds_the_lock(tmp_path: Path) -> None:
    files = JobPaths(tmp_path)
    assert read_state(files) == ("waiting", None)
    with FileLock(files.lock):
        assert read_state(files) == ("running", None)
    assert read_state(files) == ("waiting", None)


def test_a_job_that_a_full_disk_ended_waits(tmp_path: Path) -> None:
    files = JobPaths(tmp_path)
    _write(files, _outcome("full_disk"))
    assert read_state(files) == ("waiting", None)
