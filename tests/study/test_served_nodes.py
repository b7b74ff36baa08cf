"""Servers on a cluster whose nodes join, leave, and lack things; the cluster is a fake."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.loading import load_study
from sweeper.execution.cluster import Node, NodeOrder
from sweeper.foundation.errors import ConfigError, ServerError
from sweeper.records import Resources, ServedModel
from sweeper.records.layout import StudyPaths
from sweeper.serving.model_server import Patience
from sweeper.study.manifest import open_manifest
from sweeper.study.served_models import Role
from sweeper.study.served_nodes import ServedOnNodes, teacher_gpus

WriteStudy = Callable[..., Path]
TEACHER: tuple[Role, ...] = ("teacher",)


@dataclass
class FakeServers:
    """Servers that answer when they are told to."""

    order: NodeOrder
    addresses: Mapping[str, ServedModel] = field(default_factory=dict)
    ready: bool = False
    failure: str = ""
    lost: str = ""
    ended: bool = False

    def look(self) -> list[str]:
        return []

    def stop(self) -> None:
        pass

    def end(self) -> None:
        self.ended = True

    def answer(self) -> None:
        [(files, _)] = self.order.servers
        url = f"http://{files.directory.name}"
        self.addresses = {"cpu": ServedModel(url=url, name="", key_file="")}
        self.ready = True


@dataclass
class FakeCluster:
    names: list[str]
    gpus: int = 0
    gpu_per_job: float = 0.0
    without_vllm: set[str] = field(default_factory=set)
    kept_to: Collection[str] | None = None
    started: list[tuple[str, FakeServers]] = field(default_factory=list)

    def nodes(self) -> list[Node]:
        return [Node(name, "host", self.gpus) for name in self.names]

    def keep_to(self, nodes: Collection[str] | None) -> None:
        self.kept_to = nodes

    def find_vllm(self, nodes: Sequence[Node], python: str | None) -> list[tuple[str, str]]:
        return [
            ("", "expected vLLM, found none") if node.id in self.without_vllm else ("0.29", "")
            for node in nodes
        ]

    def start_servers(self, node: Node, order: NodeOrder) -> FakeServers:
        self.started.append((node.id, FakeServers(order)))
        return self.started[-1][1]

    def answer(self) -> None:
        """Have all servers answer."""
        for _, servers in self.started:
            servers.answer()


def served_on(cluster: FakeCluster, write_study: WriteStudy, **keys: Any) -> ServedOnNodes:
    teacher = {"model": "builtin/adder-teacher", "server": {"start": "vllm", **keys}}
    compute = {"executor": "ray", "resources_per_trial": {"gpu": cluster.gpu_per_job}}
    file = write_study(teacher=teacher, arms={"seqkd": {}}, compute=compute)
    study = load_study(file)
    paths = StudyPaths(file.parent / "runs", "tiny")
    manifest = open_manifest(study, paths, ["test"], 1)
    return ServedOnNodes(study, paths, manifest, cluster, Patience(back_off=(0.0,)))


def serve(served: ServedOnNodes, cluster: FakeCluster, jobs: int | None = None) -> None:
    served.serve(TEACHER, (), lambda what: None, cluster.answer, jobs)


def test_jobs_start_where_servers_have_answered(write_study: WriteStudy) -> None:
    cluster = FakeCluster(["one", "two"])
    served = served_on(cluster, write_study)
    serve(served, cluster)
    served.check()
    assert cluster.kept_to == {"one", "two"}
    cluster.names.append("three")
    served.check()
    assert cluster.kept_to == {"one", "two"}
    cluster.answer()
    served.check()
    assert cluster.kept_to == {"one", "two", "three"}
    cluster.names.remove("one")
    served.check()
    assert cluster.kept_to == {"two", "three"}
    assert served.messages() == ["host-one: left, with the teacher's server"]
    place = served.place(Resources(directory="", device="cpu", threads=1, node="two"))
    assert place.served_teacher is not None
    assert place.served_teacher.url == "http://teacher@host-two"
    elsewhere = served.place(Resources(directory="", device="cpu", threads=1, node="one"))
    assert elsewhere.served_teacher is None
    served.serve((), (), lambda what: None, lambda: None)
    assert [servers.ended for _, servers in cluster.started] == [False, True, True]
    assert cluster.kept_to is None


def test_one_job_needs_the_servers_of_one_node(write_study: WriteStudy) -> None:
    cluster = FakeCluster(["one", "two"])
    served = served_on(cluster, write_study)
    serve(served, cluster, jobs=1)
    assert [name for name, _ in cluster.started] == ["one"]
    # If that node leaves, another takes its place.
    cluster.names.remove("one")
    served.check()
    assert [name for name, _ in cluster.started] == ["one", "two"]


def test_a_node_without_vllm_is_named(write_study: WriteStudy) -> None:
    cluster = FakeCluster(["one", "two"], without_vllm={"two", "three"})
    with pytest.raises(ConfigError, match=r"found none \(on the node host-two\)"):
        served_on(cluster, write_study)
    cluster.names = ["one"]
    served = served_on(cluster, write_study)
    serve(served, cluster)
    cluster.names.append("three")
    served.check()
    [message] = served.messages()
    assert message == "expected vLLM, found none (on the node host-three): no job runs there"
    assert [name for name, _ in cluster.started] == ["one"]


def test_a_server_that_fails_ends_the_study_or_its_node(write_study: WriteStudy) -> None:
    cluster = FakeCluster(["one"])
    served = served_on(cluster, write_study)
    serve(served, cluster)
    cluster.names.append("two")
    served.check()
    cluster.started[1][1].failure = "The server did not start."
    served.check()
    assert served.messages() == [
        "On the node host-two: The server did not start.: no job runs there any more"
    ]
    served.check()
    assert len(cluster.started) == 2
    cluster.started[0][1].failure = "The server died."
    with pytest.raises(ServerError, match="On the node host-one: The server died"):
        served.check()


def test_servers_that_nothing_watches_are_found_again(write_study: WriteStudy) -> None:
    cluster = FakeCluster(["one"])
    served = served_on(cluster, write_study)
    serve(served, cluster)
    for _ in range(3):
        cluster.started[-1][1].lost = "It was killed."
        served.check()
        served.check()
    assert len(cluster.started) == 4
    cluster.started[-1][1].lost = "It was killed."
    with pytest.raises(ServerError, match="was ended 4 times: It was killed"):
        served.check()


def test_the_teacher_has_gpus_of_its_own_where_there_is_room(write_study: WriteStudy) -> None:
    cluster = FakeCluster(["one"], gpus=4, gpu_per_job=0.5)
    served = served_on(cluster, write_study, gpus=2)
    serve(served, cluster)
    [(_, servers)] = cluster.started
    assert servers.order.own_gpus == 2
    with pytest.raises(ConfigError, match="the GPUs of the node host-one, found 8"):
        served_on(cluster, write_study, gpus=8)


@pytest.mark.parametrize(
    ("gpus", "wanted", "gpu_per_job", "expected"),
    [
        (0, None, 0.0, (0, 0)),
        (8, None, 1.0, (1, 1)),
        (8, 4, 4.0, (4, 4)),
        (1, None, 1.0, (1, 0)),
        (1, None, 0.5, (1, 0)),
        (1, None, 0.0, (1, 1)),
        (8, 0, 1.0, (0, 0)),
        (1, 2, 1.0, (2, 0)),
    ],
)
def test_gpus_of_the_teacher(
    gpus: int, wanted: int | None, gpu_per_job: float, expected: tuple[int, int]
) -> None:
    assert teacher_gpus(gpus, wanted, gpu_per_job) == expected
