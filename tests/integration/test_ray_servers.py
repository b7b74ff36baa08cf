"""Servers of a study on the nodes of a Ray cluster: real actors, and processes without a model."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sweeper.config.loading import load_study
from sweeper.execution.executor import Executor
from sweeper.records import Outcome, ServerStart
from sweeper.records.layout import ServerPaths, StudyPaths
from sweeper.serving.model_server import Patience
from sweeper.serving.start_log import read_server_record
from sweeper.study.manifest import open_manifest
from sweeper.study.served import Served, make_served
from tests.support.asking_jobs import ask
from tests.support.served_models import FakeServers, fake_servers
from tests.support.trial_jobs import make_spec
from tests.support.waiting import wait_until
from tests.support.whole_studies import WholeStudy

pytestmark = [
    pytest.mark.slow,
    # Ray's own processes and sockets outlast what Python thinks of them.
    pytest.mark.filterwarnings("ignore"),
]

WriteStudy = Callable[..., Path]
TEACHER = {
    "model": "builtin/adder-teacher",
    "dtype": "float32",
    "server": {"start": "vllm", "concurrency": 4},
}
JUDGED = {"teacher_signal": "top_k", "teacher_top_k": 8, "lmbda": 1.0, "max_new_tokens": 8}
ARMS = {"gkd": {"settings": JUDGED}, "sft": {}}
KEYS: dict[str, Any] = {"teacher": TEACHER, "arms": ARMS, "trials": 1}
PATIENCE = Patience(check_every=0.1, back_off=(0.0, 1.0, 10.0))


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServers]:
    with fake_servers(tmp_path / "fake", monkeypatch) as servers:
        yield servers


@pytest.fixture
def cluster(servers: FakeServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One node of two cores; what it starts finds the package in vLLM's place."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 2, "num_gpus": 0, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        yield found
    finally:
        found.shutdown()


def compute(cluster: Any) -> dict[str, Any]:
    resources = {"cpu": 1, "gpu": 0}
    return {"executor": "ray", "address": cluster.address, "resources_per_trial": resources}


def starts(paths: StudyPaths) -> dict[str, tuple[ServerStart, ...]]:
    """The recorded starts of all servers, by the folder's name."""
    records = {files.directory.name: read_server_record(files.record) for files in paths.servers()}
    return {name: record.starts for name, record in records.items() if record}


def keeper_of(files: ServerPaths) -> int:
    """The process that keeps a server."""
    return int(json.loads(files.processes.read_text())["keeper"]["pid"])


def watcher_of(files: ServerPaths) -> int:
    """The process that watches a server: the parent of the server's keeper."""
    return int(Path(f"/proc/{keeper_of(files)}/stat").read_text().rpartition(")")[2].split()[1])


@dataclass
class ServedJobs:
    """Jobs on a cluster that ask the servers of their nodes."""

    study: Path
    executor: Executor
    served: Served
    lines: list[str] = field(default_factory=list)

    def look(self) -> None:
        self.served.check()
        self.lines += self.served.messages()

    def looked_for(self, text: str) -> bool:
        """Look, and return whether there was ever a message with that text."""
        self.look()
        return any(text in line for line in self.lines)

    def wait_for_room(self, jobs: int) -> None:
        def is_there() -> bool:
            self.look()
            return self.executor.free() == jobs

        wait_until(is_there, f"room for {jobs} jobs")

    def run(self, numbers: range) -> dict[str, list[dict[str, str]]]:
        """Run jobs, all at once; what they were answered, by node."""
        answers: dict[str, list[dict[str, str]]] = {}
        specs = []
        for number in numbers:
            spec = make_spec(self.study, number)
            place = self.served.place(self.executor.next_resources(Path(spec.place.directory)))
            specs.append(spec.model_copy(update={"place": place}))
            self.executor.submit(specs[-1])
        files = [Path(spec.place.directory) / "answers.json" for spec in specs]
        wait_until(lambda: all(map(Path.exists, files)), "the jobs to ask")
        end = files[0].parent.parent / "end"
        end.touch()
        while self.executor.running():
            for done in self.executor.wait(60):
                assert done.outcome is not None, done.reason
                assert done.outcome.state == "completed", done.outcome.failure
        end.unlink()
        for spec, path in zip(specs, files, strict=True):
            answers.setdefault(spec.place.node, []).append(json.loads(path.read_text()))
        return answers


def has_start_weights(paths: StudyPaths, folder: Path) -> None:
    """As the preparation leaves them for servers of students' weights."""
    folder.mkdir()
    (folder / "files.json").write_text("{}")
    files = paths.preparation("start")
    files.directory.mkdir(parents=True)
    outcome = Outcome(state="completed", started=1, finished=2, start_weights=str(folder))
    files.outcome.write_text(outcome.model_dump_json())


@pytest.mark.timeout(300)
def test_jobs_ask_the_servers_of_their_node_and_nodes_come_and_go(
    write_study: WriteStudy, servers: FakeServers, cluster: Any, tmp_path: Path
) -> None:
    from sweeper.execution.ray_cluster import RayExecutor

    cluster.add_node(num_cpus=2, num_gpus=0)
    evaluation = {"selection": "selection.yaml", "test": "test.yaml", "engine": "vllm"}
    file = write_study(
        teacher=TEACHER,
        arms={"seqkd": {}, "sft": {}},
        evaluation=evaluation,
        compute=compute(cluster),
    )
    study = load_study(file)
    paths = StudyPaths(tmp_path / "runs", "tiny")
    manifest = open_manifest(study, paths, ["test"], 1)
    has_start_weights(paths, tmp_path / "start")
    said: list[str | None] = []
    executor = RayExecutor(study.config.compute, (paths.directory,), (), ask)
    with executor, make_served(study, paths, manifest, executor, PATIENCE) as served:
        jobs = ServedJobs(file, executor, served)
        served.serve(("teacher", "student"), (), said.append, lambda: None)
        assert said == ["starting the teacher's server and the student's server", None]
        jobs.wait_for_room(4)
        # Two jobs at once on each node ask the servers of their own.
        answers = jobs.run(range(4))
        assert [len(found) for found in answers.values()] == [2, 2]
        urls = [url for [one, other] in answers.values() for url in one.values() if one == other]
        assert len(set(urls)) == 4
        assert len(servers.starts()) == 4
        recorded = starts(paths)
        names = Counter(name.partition("@")[0] for name in recorded)
        assert names == {"teacher": 2, "student": 2}
        for found in recorded.values():
            assert [(start.host, start.devices) for start in found] == [
                (os.uname().nodename, ("cpu",))
            ]
        # A server that dies is started again, where its jobs expect it.
        pid = servers.starts()[0]["processes"][0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(servers.starts()) == 5, "a restart")
        jobs.look()
        assert servers.starts()[4]["port"] == servers.starts()[0]["port"]
        # So is the process that watches them, which then finds them.
        os.kill(watcher_of(paths.server(next(iter(recorded)))), signal.SIGKILL)
        wait_until(lambda: jobs.looked_for("has ended"), "the loss of the watching process")
        jobs.wait_for_room(4)
        assert jobs.looked_for("found the server of the last run")
        assert len(servers.starts()) == 5
        # A node that joins gets its own; the cluster keeps one of its GPUs for the teacher.
        third = cluster.add_node(num_cpus=1, num_gpus=2)
        jobs.wait_for_room(5)
        assert len(servers.starts()) == 7
        new = starts(paths).keys() - recorded.keys()
        assert {name.partition("@")[0]: starts(paths)[name][0].devices for name in new} in (
            {"teacher": ("cuda:0",), "student": ("cpu",)},
            {"teacher": ("cuda:1",), "student": ("cpu",)},
        )
        cluster.remove_node(third)
        jobs.wait_for_room(4)
        assert sum("left, with the" in line for line in jobs.lines) == 2
        # A server that nobody needs is left to its keeper, which knows by the lease.
        for files in map(paths.server, new):
            with FileLock(files.lease, timeout=60):
                os.kill(keeper_of(files), signal.SIGTERM)
        wait_until(lambda: len(servers.running()) == 8, "the servers of that node to end")
        # What is not asked any more ends everywhere.
        served.serve((), (), said.append, lambda: None)
        assert servers.running() == []
        assert executor.free() == 4
    ends = Counter(start.end for found in starts(paths).values() for start in found)
    assert ends == {"no longer needed": 4, "died": 1, None: 2}


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_server_that_fails_on_a_node_stops_the_study(
    write_study: WriteStudy, servers: FakeServers, cluster: Any
) -> None:
    servers.tell("last_words", "torch.OutOfMemoryError: CUDA out of memory.")
    study = WholeStudy(write_study(**KEYS, compute=compute(cluster)).parent)
    done = study.run()
    shown = " ".join(done.stderr.split())
    assert done.returncode == 1, shown
    assert f"On the node {os.uname().nodename}-" in shown
    assert "CUDA out of memory" in shown
    assert servers.running() == []


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_killed_coordinator_leaves_its_server_to_the_next_run(
    write_study: WriteStudy, servers: FakeServers, cluster: Any
) -> None:
    cluster.add_node(num_cpus=1, num_gpus=0)
    study = WholeStudy(write_study(**KEYS, compute=compute(cluster)).parent)
    silent = servers.tell("silent")
    stopped = study.run_until(lambda: bool(servers.starts()), signal.SIGINT, group=True)
    assert stopped.returncode == 130
    assert servers.running() == []
    silent.unlink()
    begun = study.paths.preparation("teacher").spec
    process = study.start()
    wait_until(lambda: process.poll() is not None or begun.exists(), "a step that needs it")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(servers.starts()) == 2
    study.check(study.run())
    # The preparation asks the server of one node, trials those of both.
    assert len(servers.starts()) == 3
    found = sorted(starts(study.paths).values(), key=len)
    assert [[start.adopted for start in node] for node in found] == [[0], [0, 1]]
    assert {node[-1].end for node in found} == {"no longer needed"}
    assert servers.running() == []
