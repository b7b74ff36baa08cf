"""A coordinator with servers of students' weights: when each is up, and what jobs are told of it.

Jobs are done by writing their files; the servers are real processes without models.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.execution.executor import Spec
from sweeper.foundation.errors import ServerError
from sweeper.records import Resources
from sweeper.records.layout import StudyPaths
from sweeper.records.study_record import StudyRecord
from sweeper.serving.model_server import Patience
from sweeper.study.collaborators import Collaborators, RunningStudy
from sweeper.study.coordinator import Coordinator
from sweeper.study.interrupts import Interrupted, StopRequest
from sweeper.study.manifest import open_manifest
from sweeper.study.served_models import ServedModels
from tests.support.memory_tracker import MemoryStore, MemoryTracker
from tests.support.served_models import QUICK, FakeServers, fake_servers
from tests.support.waiting import wait_until
from tests.support.writing_executor import ARMS, Silence, WritingExecutor

pytestmark = pytest.mark.slow

WriteStudy = Callable[..., Path]
SAMPLED: dict[str, Any] = {"arms": ARMS, "rollouts": {"engine": "vllm"}}
SERVED = {"model": "builtin/adder-teacher", "dtype": "float32", "server": {"start": "vllm"}}
SCORED: dict[str, Any] = {
    "arms": {"sft": {"trials": 2}, "seqkd": {"trials": 1}},
    "teacher": SERVED,
    "evaluation": {"selection": "selection.yaml", "test": "test.yaml", "engine": "vllm"},
}


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServers]:
    with fake_servers(tmp_path / "fake", monkeypatch) as servers:
        yield servers


@dataclass
class Watcher(Silence):
    """An observer that notes what it is told, and calls ``look`` at every update."""

    look: Callable[[RunningStudy], None] = lambda run: None
    lines: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    served: ServedModels = field(init=False)

    def update(self, run: RunningStudy) -> None:
        if run.waiting_for and run.waiting_for not in self.waits[-1:]:
            self.waits.append(run.waiting_for)
        self.look(run)

    def message(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class OnDevices(WritingExecutor):
    """Runs jobs on devices in turn."""

    names: tuple[str, ...] = ("cpu",)
    given: int = 0

    def devices(self) -> tuple[str, ...]:
        return self.names

    def next_resources(self, directory: Path) -> Resources:
        device = self.names[self.given % len(self.names)]
        return Resources(directory=str(directory), device=device, threads=1)

    def submit(self, spec: Spec) -> None:
        super().submit(spec)
        self.given += 1


def run(
    file: Path,
    watcher: Watcher,
    devices: tuple[str, ...] = ("cpu",),
    patience: Patience = QUICK,
) -> StudyRecord:
    """What the command does, from the lock to the report."""
    study = load_study(file)
    paths = StudyPaths(file.parent / "runs", study.config.study)
    manifest = open_manifest(study, paths, ["sweeper", "run"], 1)
    tracker, executor = MemoryTracker("tiny", MemoryStore()), OnDevices(names=devices)
    with executor, ServedModels(study, paths, manifest, executor.devices(), patience) as served:
        watcher.served = served
        collaborators = Collaborators(executor, tracker, watcher, StopRequest(), served=served)
        return Coordinator(study, paths, manifest, file.parent / "cache", collaborators).run()


def told(file: Path, role: str) -> dict[str, str | None]:
    """The server of a role that each job was told of, by the job's folder."""
    folder = file.parent / "runs" / "tiny"
    return {
        path.parent.relative_to(folder).as_posix(): (place[f"served_{role}"] or {}).get("url")
        for path in sorted(folder.rglob("spec.json"))
        for place in [json.loads(path.read_text())["place"]]
    }


def url(start: dict[str, Any]) -> str:
    return f"http://127.0.0.1:{start['port']}/v1"


def test_the_server_is_up_from_the_first_trial_to_the_last_confirmation(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    file = write_study(**SAMPLED, confirm={"seeds": 2, "top_k": 1})
    watcher = Watcher()
    record = run(file, watcher)
    [start] = servers.starts()
    jobs = told(file, "student")
    preparing = {name: jobs.pop(name) for name in list(jobs) if name.startswith("preparation/")}
    assert set(preparing) >= {"preparation/start", "preparation/student"}
    before = ("data", "teacher", "start", "student")
    assert {preparing[f"preparation/{step}"] for step in before} == {None}
    # Trials of all arms, and two confirmation runs of each.
    assert len(jobs) == 2 + 1 + 2 * 2
    assert set(jobs.values()) == {url(start)}
    assert watcher.waits == ["starting the student's server", "ending the student's server"]
    [recorded] = record.servers
    assert [start.end for start in recorded.starts] == ["no longer needed"]
    arguments = start["arguments"]
    middleware = [arguments[at + 1] for at, name in enumerate(arguments) if name == "--middleware"]
    assert middleware == ["weights_known.WeightsKnown", "require_key.RequireKey"]


def test_scores_need_the_servers_of_the_models_that_are_scored(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    file = write_study(**SCORED, confirm={"seeds": 2, "top_k": 1})
    watcher = Watcher()
    run(file, watcher)
    teacher, student = told(file, "teacher"), told(file, "student")
    for name in ("preparation/teacher", "preparation/test_teacher"):
        assert teacher.pop(name) is not None
    assert {name for name, address in teacher.items() if address} <= {"preparation/test_student"}
    unserved = [name for name, address in student.items() if address is None]
    assert unserved == ["preparation/data", "preparation/start", "preparation/teacher"]
    # The teacher's ended before the student was scored, and came back for the test suite.
    assert watcher.waits == [
        "starting the teacher's server",
        "ending the teacher's server",
        "starting the student's server",
        "starting the teacher's server",
        "ending the teacher's server",
        "ending the student's server",
    ]


def test_both_models_are_served_to_trials_that_ask_both(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    judged = {"gkd": {"trials": 2, "settings": {"teacher_signal": "top_k"}}}
    file = write_study(arms=judged, teacher=SERVED, rollouts={"engine": "vllm"})
    run(file, Watcher())
    assert len(servers.starts()) == 2
    for number in ("arms/gkd/0000", "arms/gkd/0001"):
        addresses = {told(file, "teacher")[number], told(file, "student")[number]}
        assert len(addresses) == 2 and None not in addresses


def test_a_server_that_trials_do_not_ask_ends_before_them(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    """Its memory is for them."""
    running: list[int] = []

    def look(study: RunningStudy) -> None:
        if study.phase == "search" and study.jobs.running:
            running.append(len(servers.running()))

    file = write_study(
        arms={"seqkd": {"trials": 2}, "sft": {"trials": 1}},
        teacher=SERVED,
        evaluation=SCORED["evaluation"],
    )
    run(file, Watcher(look))
    assert len(servers.starts()) == 2
    assert set(running) == {2}  # the student's server, and its engine


def test_each_device_has_a_server_that_its_trials_ask(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    file = write_study(**SAMPLED)
    run(file, Watcher(), devices=("cuda:0", "cuda:1", "cuda:0"))
    assert len(servers.starts()) == 2
    runs = (file.parent / "runs").rglob("spec.json")
    jobs = [path for path in runs if path.parents[1].name != "preparation"]
    places = [json.loads(path.read_text())["place"] for path in jobs]
    pairs = {(place["device"], place["served_student"]["url"]) for place in places}
    assert {device for device, _ in pairs} == {"cuda:0", "cuda:1"}
    assert len(pairs) == len({address for _, address in pairs}) == 2
    folders = {path.name for path in (file.parent / "runs" / "tiny" / "servers").iterdir()}
    assert folders == {"student@cuda:0", "student@cuda:1"}


def test_a_study_that_is_done_starts_nothing(write_study: WriteStudy, servers: FakeServers) -> None:
    file = write_study(**SAMPLED)
    run(file, Watcher())
    watcher = Watcher()
    run(file, watcher)
    assert len(servers.starts()) == 1
    assert watcher.waits == []


def test_arms_without_rollouts_have_no_server(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    run(write_study(arms={"sft": {"trials": 1}}), Watcher())
    assert servers.starts() == []


def test_a_killed_coordinator_leaves_its_server_to_the_next_run(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    file = write_study(**SAMPLED)
    patient = replace(QUICK, grace=60.0)

    def die(study: RunningStudy) -> None:
        if study.phase == "search" and study.jobs.running:
            os.kill(os.getpid(), signal.SIGKILL)

    killed = multiprocessing.get_context("fork").Process(
        target=run, args=(file, Watcher(die)), kwargs={"patience": patient}
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert servers.running() != []
    watcher = Watcher()
    run(file, watcher, patience=patient)
    [start] = servers.starts()
    assert any("found the server of the last run" in line for line in watcher.lines)
    assert told(file, "student")["arms/gkd/0000"] == url(start)


def test_a_stop_ends_the_servers(write_study: WriteStudy, servers: FakeServers) -> None:
    def stop(study: RunningStudy) -> None:
        if study.phase == "search" and study.jobs.running:
            study.stop.level = 2

    with pytest.raises(Interrupted):
        run(write_study(**SAMPLED), Watcher(stop))
    assert len(servers.starts()) == 1
    assert servers.running() == []


def test_a_server_that_cannot_start_spends_no_trial(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    last_words = servers.tell(
        "last_words", "User-specified max_model_len (9) is greater than the derived max_model_len"
    )
    file = write_study(**SAMPLED)
    with pytest.raises(ServerError, match=r"compute\.vllm\.max_length"):
        run(file, Watcher())
    assert not any(name.startswith("arms/") for name in told(file, "student"))
    last_words.unlink()
    record = run(file, Watcher())
    assert [len(arm.trials) for arm in record.arms] == [2, 1]


def test_a_server_that_dies_for_good_stops_the_study_and_resumes(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    file = write_study(**SAMPLED)
    dead = False

    def kill(study: RunningStudy) -> None:
        nonlocal dead
        if study.phase == "search" and study.jobs.running and not dead:
            dead = True
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
    with pytest.raises(ServerError, match="the disk is on fire"):
        run(file, watcher)
    for name in ("last_words", "unwell"):
        (servers.folder / name).unlink()
    record = run(file, Watcher())
    assert [len(arm.trials) for arm in record.arms] == [2, 1]


def test_weights_that_someone_removed_from_the_cache_are_written_again(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    file = write_study(**SAMPLED)

    def stop(study: RunningStudy) -> None:
        if study.phase == "search" and study.jobs.running:
            study.stop.level = 2

    with pytest.raises(Interrupted):
        run(file, Watcher(stop))
    shutil.rmtree(file.parent / "cache" / "start_weights")
    record = run(file, Watcher())
    assert [len(arm.trials) for arm in record.arms] == [2, 1]


def test_auto_does_without_a_server_that_cannot_be_started(
    write_study: WriteStudy, servers: FakeServers
) -> None:
    servers.tell("last_words", "RuntimeError: Unsupported CPU attention configuration")
    file, watcher = write_study(arms=ARMS, rollouts={"engine": "auto"}), Watcher()
    run(file, watcher)
    assert len(servers.starts()) == 1
    assert set(told(file, "student").values()) == {None}
    [line] = [line for line in watcher.lines if "does without vllm" in line]
    assert "Unsupported CPU attention configuration" in line
    with pytest.raises(ServerError, match="Unsupported"):
        run(write_study(study="other", arms=ARMS, rollouts={"engine": "vllm"}), Watcher())
