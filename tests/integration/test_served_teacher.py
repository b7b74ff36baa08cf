"""Studies whose teacher answers over a real socket, with a key, faults and kills."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.builtin.addition import problems
from sweeper.records.layout import JobPaths
from sweeper.records.outcome_files import read_outcome
from tests.support.chat_server import (
    KEY,
    ChatServer,
    chat_server,
    half_a_body,
    hanging,
    reply,
)
from tests.support.whole_studies import WholeStudy

pytestmark = pytest.mark.slow

ROWS = 24
ARMS: dict[str, Any] = {"seqkd": {}, "sft": {}}
NOW = {"Retry_After": "0"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with chat_server(key=KEY) as running:
        yield running


@pytest.fixture
def study(write_study: Callable[..., Path], server: ChatServer) -> WholeStudy:
    teacher = server.section(api_key_env="TEACHER_KEY", concurrency=4)
    return WholeStudy(write_study(teacher=teacher, arms=ARMS, trials=1).parent)


def leaks(study: WholeStudy, *streams: str) -> list[str]:
    """Where the key stands, in any file or stream."""
    files = (path for path in study.directory.rglob("*") if path.is_file())
    found = [str(path) for path in files if KEY.encode() in path.read_bytes()]
    return found + [stream for stream in streams if KEY in stream]


@pytest.mark.soak
def test_a_study_with_a_teacher_elsewhere(study: WholeStudy, server: ChatServer) -> None:
    server.faults = [reply(429, "slow", **NOW), None, reply(500, KEY, **NOW), half_a_body]
    done = study.run("--set", "confirm.seeds=1")
    study.check(done)
    assert set(server.answered.values()) == {1}
    assert set(server.answered) == {row["question"] for row in problems("train", ROWS)}
    assert leaks(study, done.stdout, done.stderr) == []
    # Its answers are the references here, and so the arms are the same training.
    results = study.results()
    assert results["finals/seqkd/0000"][2] == results["finals/sft/0000"][2]
    # It is told once that there is no score, and nothing tried to load the model.
    told = done.stdout + done.stderr
    assert told.count("the teacher answers over teacher.server and has no score") == 1
    prepared = study.paths.directory / "preparation"
    assert sorted(path.name for path in prepared.iterdir()) == [
        "data",
        "student",
        "teacher",
        "test_student",
    ]
    report = (study.directory / "reports" / "tiny" / "report.md").read_text()
    assert "The teacher answers over a server" in report
    checked = study.run(command="check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    said = " ".join(checked.stdout.split())
    assert f"adder-9000 answers at {server.url} to {ROWS} rows of the data" in said
    params = [run.data.params for run in study.mlflow_runs()]
    assert any(found.get("teacher/server.url") == server.url for found in params)
    # A study of another name pays for its new rows only.
    options = ("study=more", "data.train.limit=30", "teacher.server.concurrency=2")
    more = study.run(*(word for option in options for word in ("--set", option)))
    assert more.returncode == 0, more.stderr
    assert len(server.answered) == 30
    assert set(server.answered.values()) == {1}
    assert leaks(study, checked.stdout, more.stdout, more.stderr) == []


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.soak)]
)
@pytest.mark.soak
def test_a_study_that_is_stopped_while_it_asks(
    study: WholeStudy, server: ChatServer, number: signal.Signals
) -> None:
    release = threading.Event()
    server.faults = [*[None] * 9, *[hanging(release)] * 4]
    study.run_until(lambda: len(server.asked) == 13, number)
    release.set()
    assert sum(server.answered.values()) == 9
    server.faults.clear()
    study.check(study.run())
    assert set(server.answered.values()) == {1}


@pytest.mark.soak
def test_a_server_that_goes_away_spends_no_trial(study: WholeStudy, server: ChatServer) -> None:
    server.faults = [None] * 5
    server.always = reply(503, "\x1b[31mout of order", **NOW)
    gone = study.run("--set", "teacher.server.retry_for=0.2")
    assert gone.returncode == 1
    assert f"The server {server.url} does not answer: row " in " ".join(gone.stderr.split())
    assert "503 Service Unavailable: [31mout of order" in " ".join(gone.stderr.split())
    assert "Traceback" not in gone.stdout + gone.stderr
    assert study.trials() == {}
    assert server.answered
    server.always = None
    study.check(study.run())
    assert set(server.answered.values()) == {1}


@pytest.mark.soak
def test_a_trial_that_needs_the_server_waits_for_it(
    study: WholeStudy, server: ChatServer, tmp_path: Path
) -> None:
    study.check(study.run())
    # Someone empties the cache, and the server is gone.
    study = WholeStudy(study.directory, cache=Path("empty"))
    server.always = reply(503, "down", **NOW)
    gone = study.run("--set", "trials=2", "--set", "teacher.server.retry_for=0.2")
    assert gone.returncode == 1
    assert "does not answer" in gone.stderr
    outcomes = [read_outcome(JobPaths(files.directory)) for files in study.trials().values()]
    assert all(outcome is None or outcome.state == "completed" for outcome in outcomes)
    server.always = None
    study.check(study.run("--set", "trials=2"))


@pytest.mark.soak
def test_no_key_and_a_wrong_one(
    study: WholeStudy, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEACHER_KEY")
    for command in ("check", "run"):
        unset = study.run(command=command)
        assert unset.returncode == 2
        text = " ".join((unset.stdout + unset.stderr).split())
        assert "teacher.server.api_key_env: expected the API's key" in text
        assert "TEACHER_KEY, which is not set where jobs run" in text
    assert server.asked == []
    monkeypatch.setenv("TEACHER_KEY", KEY)
    server.key = "another"
    wrong = study.run()
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("study.yaml:")
    assert "teacher.server.api_key_env: the server" in wrong.stderr
    assert "401 Unauthorized: wrong key Bearer ***" in wrong.stderr
    assert len(server.asked) <= 4
    assert leaks(study, wrong.stdout, wrong.stderr) == []


@pytest.mark.soak
def test_a_warm_start_on_the_answers(study: WholeStudy, server: ChatServer) -> None:
    warm = json.dumps({"method": "seqkd", "max_steps": 2})
    study.check(study.run("--set", f"warm_start={warm}"))
    assert set(server.answered.values()) == {1}
