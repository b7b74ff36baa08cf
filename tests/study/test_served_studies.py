"""A coordinator that serves the teacher: when the server starts and ends, and what its end means.

Jobs are done by writing their files; the server is a real process without a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.foundation.errors import ServerError
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import StudyRecord
from sweeper.study.collaborators import Collaborators, RunningStudy
from sweeper.study.coordinator import Coordinator
from sweeper.study.interrupts import Interrupted, StopRequest
from sweeper.study.manifest import open_manifest
from sweeper.study.served_models import ServedModels
from tests.support.memory_tracker import MemoryStore, MemoryTracker
from tests.support.served_models import QUICK, FakeServers, fake_servers
from tests.support.waiting import wait_until
from tests.support.writing_executor import Silence, WritingExecutor

WriteStudy = Callable[..., Path]
TEACHER = {"model": "builtin/adder-teacher", "server": {"start": "vllm"}}
ARMS = {
    "seqkd": {"search": {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2}}},
    "sft": {"trials": 1},
}


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServers]:
    with fake_servers(tmp_path / "fake", monkeypatch) as servers:
        servers.paths = StudyPaths(tmp_path / "runs", "tiny").server("teacher")
        yield servers


@dataclass
class Watcher(Silence):
    """An observer that notes what it is told, and calls ``look`` at every update."""

    look: Callable[[RunningStudy], None] = lambda run: None
    lines: list[str] = field(default_factory=list)
    waits: set[str | None] = field(default_factory=set)
    served: ServedModels = field(init=False)

    def update(self, run: RunningStudy) -> None:
        self.waits.add(run.waiting_for)
        self.look(run)

    def message(self, text: str) -> None:
        self.lines.append(text)


def run(file: Path, servers: FakeServers, watcher: Watcher) -> StudyRecord:
    """What the command does, from the lock to the report."""
    study = load_study(file)
    paths = StudyPaths(file.parent / "runs", study.config.study)
    manifest = open_manifest(study, paths, ["sweeper", "run"], 1)
    tracker, executor = MemoryTracker("tiny", MemoryStore()), WritingExecutor()
    with executor, ServedModels(study, paths, manifest, executor.devices(), QUICK) as served:
        watcher.served = served
        collaborators = Collaborators(executor, tracker, watcher, StopRequest(), served=served)
        return Coordinator(study, paths, manifest, file.parent / "cache", collaborators).run()


def test_the_server_is_up_for_the_step_that_asks_it_and_for_nothing_else(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    left: list[int] = []

    def look(study: RunningStudy) -> None:
        if study.phase == "search":
            left.extend(servers.running())

    watcher = Watcher(look)
    record = run(write_study(teacher=TEACHER, arms=ARMS), servers, watcher)
    [start] = servers.starts()
    url = f"http://127.0.0.1:{start['port']}/v1"
    asked = {
        path.parent.name: (json.loads(path.read_text())["place"]["served_teacher"] or {}).get("url")
        for path in servers.paths.directory.parents[1].rglob("spec.json")
    }
    assert asked.pop("teacher") == url
    assert set(asked.values()) == {None}
    assert {"data", "student", "0000"} <= set(asked)
    assert left == []
    ways = ("starting the teacher's server", "ending the teacher's server")
    assert watcher.waits == {None, *ways}
    assert any(f"the server answers at {url}" in line for line in watcher.lines)
    [recorded] = record.servers
    assert [start.end for start in recorded.starts] == ["no longer needed"]


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": TEACHER, "arms": {"sft": {"trials": 1}}},
        {"teacher": {"model": "builtin/adder-teacher"}, "arms": ARMS},
    ],
)
def test_nothing_is_served_that_nobody_asks(
    write_study: WriteStudy, servers: FakeServers, changes: dict[str, Any]
) -> None:
    run(write_study(**changes), servers, Watcher())
    assert servers.starts() == []


def test_a_study_that_is_done_starts_no_server(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    file = write_study(teacher=TEACHER, arms=ARMS)
    run(file, servers, Watcher())
    record = run(file, servers, Watcher())
    assert len(servers.starts()) == 1
    assert [start.end for start in record.servers[0].starts] == ["no longer needed"]


def test_a_server_that_cannot_start_stops_the_study(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    servers.tell("last_words", "torch.OutOfMemoryError: CUDA out of memory.")
    with pytest.raises(ServerError, match="CUDA out of memory"):
        run(write_study(teacher=TEACHER, arms=ARMS), servers, Watcher())


def test_a_stop_does_not_wait_for_the_server(write_study: WriteStudy, servers: FakeServers) -> None:
    servers.tell("silent")

    def stop(study: RunningStudy) -> None:
        if study.waiting_for and servers.starts():
            study.stop.level = 1

    with pytest.raises(Interrupted):
        run(write_study(teacher=TEACHER, arms=ARMS), servers, Watcher(stop))
    assert servers.running() == []


def test_a_server_that_dies_for_good_stops_the_study(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    def kill(study: RunningStudy) -> None:
        if servers.running() and study.waiting_for is None:
            servers.tell("last_words", "RuntimeError: the disk is on fire")
            servers.tell("unwell")
            wait_until(is_given_up, "its restarts")

    def is_given_up() -> bool:
        try:
            watcher.served.check()
        except ServerError:
            return True
        return False

    watcher = Watcher(kill)
    with pytest.raises(ServerError, match="3 times in a row"):
        run(write_study(teacher=TEACHER, arms=ARMS), servers, watcher)
    assert len(servers.starts()) == 4
