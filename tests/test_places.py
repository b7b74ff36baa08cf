"""The command line where it can read and write little: odd places, odd terminals."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeper.cli import main
from sweeper.commands.run import tracking_store
from sweeper.config.study import TrackingConfig
from sweeper.foundation.databases import sqlite_url
from sweeper.foundation.errors import PlaceError
from sweeper.foundation.places import place_error
from sweeper.records.layout import StudyPaths
from sweeper.search.storage import close_storage, open_storage
from sweeper.tracking.mlflow_store import MlflowStore
from tests.support.tiny_studies import DATA

LONG = "x" * 300
COMMANDS = {
    "a file as --runs": ("run study.yaml --runs file", "file"),
    "a file above --runs": ("run study.yaml --runs file/runs", "file"),
    "a name too long": (f"run study.yaml --runs {LONG}", LONG),
    "a file above --reports": ("report --records records.json.gz --reports file/r", "file"),
    "a name too long for reports": (
        f"report --records records.json.gz --reports {LONG}",
        LONG,
    ),
    "a file above a recipe": ("export study.yaml --recipe -o file/recipe.yaml", "file/recipe.yaml"),
}

Main = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], study: Path
) -> Iterator[Main]:
    """Runs a command line in this process, in the folder of a recorded study."""
    monkeypatch.chdir(study)

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweeper", *line.split()])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), *capfd.readouterr()

    yield run


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study, the records of its report, and a file in the way."""
    folder = tmp_path_factory.mktemp("study")
    with tarfile.open(DATA / "earlier_study" / "finished.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (folder / "file").write_text("in the way")
    (folder / "records.json.gz").write_bytes(
        next(DATA.parents[1].glob("reports/examples/*/records.json.gz")).read_bytes()
    )
    return folder


@pytest.mark.parametrize(("line", "place"), COMMANDS.values(), ids=COMMANDS)
def test_read_only_folder_and_other_places_are_one_sentence(
    call: Main, line: str, place: str
) -> None:
    code, _, err = call(line)
    assert code == 2, err
    assert place in err and "cannot be" in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err


def test_a_full_disk_is_one_sentence(call: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/data/check")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    code, _, err = call("check study.yaml")
    assert code == 1
    assert err.startswith("error: no space is left on the disk of /data/check; make room there")


def test_no_place_for_temporary_files_is_one_sentence(
    call: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "mkdtemp", none)
    code, _, err = call("check study.yaml")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith("TMPDIR: cannot be read or written: No usable temporary directory")


def test_an_error_of_the_network_or_a_bug_is_not_put_down_to_a_place() -> None:
    for error in (ConnectionRefusedError(111, "refused"), FileNotFoundError(2, "no", "f.py")):
        assert place_error(error) is None


@pytest.mark.parametrize("content", ["folder", "text"])
def test_read_only_folder_and_unusable_databases_are_named(tmp_path: Path, content: str) -> None:
    paths = StudyPaths(tmp_path / "runs", "tiny")
    paths.directory.mkdir(parents=True)
    for file in (paths.optuna, paths.mlflow):
        if content == "folder":
            file.mkdir()
        else:
            file.write_text("not a database, but long enough to be taken for one " * 40)
    with pytest.raises(PlaceError, match=f"{paths.optuna}: cannot be read or written: "):
        open_storage(paths.optuna)
    place = tracking_store(TrackingConfig(), paths)
    with pytest.raises(PlaceError, match=f"{paths.mlflow}: cannot be read or written: "):
        MlflowStore(place.uri, place.experiment, place.artifacts).open()


def test_a_database_that_becomes_read_only_is_named(tmp_path: Path) -> None:
    import optuna
    import sqlalchemy

    file = tmp_path / "study.db"
    storage = open_storage(file)

    def only_read(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only = ON")

    sqlalchemy.event.listen(storage.engine, "begin", only_read)
    try:
        with pytest.raises(PlaceError, match="attempt to write a readonly database") as caught:
            optuna.create_study(study_name="new", storage=storage)
    finally:
        close_storage(storage)
    assert str(caught.value).startswith(f"{file}: ")
    assert sqlite_url(file)


@pytest.mark.parametrize(
    "line",
    [
        *("status study.yaml", "report study.yaml", "export study.yaml --recipe"),
        *("compare records.json.gz runs/earlier", "report --records records.json.gz"),
        *("status ü–nope.yaml", "init --teacher ü --student ✗ --data ö.jsonl"),
    ],
)
def test_ascii_output_of_every_command_is_text(
    call: Main, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), "ascii", newline="") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    monkeypatch.setenv("COLUMNS", "80")
    code, _, _ = call(line)
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode("ascii") for stream in streams)  # type: ignore[attr-defined]
    assert "Traceback" not in err
    assert (out if code == 0 else err).strip()
    assert code == (2 if "ü" in line else 0), err


def test_long_tmpdir_is_one_sentence(tmp_path: Path) -> None:
    import subprocess

    long = tmp_path / ("x" * 90)
    long.mkdir()
    script = (
        "from sweeper.execution.processes import start_forkserver\n"
        "try:\n    start_forkserver()\nexcept Exception as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={**os.environ, "TMPDIR": str(long)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("TMPDIR: expected a shorter TMPDIR")
    assert str(long) in done.stdout
    assert done.stderr == ""
