"""A cluster's nodes that are avoided, or set aside, because of their devices; no cluster runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeper.config.compute import ComputeConfig
from sweeper.execution.executor import Finished
from sweeper.records import Failure, Outcome

pytestmark = pytest.mark.filterwarnings("ignore")

NODES = {"aaaaaaaaaa": 2, "bbbbbbbbbb": 2}
"""GPUs by node."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("sweeper.execution.ray_cluster")
    nodes = [
        {"NodeID": name, "NodeManagerHostname": "host", "Resources": {"CPU": 8, "GPU": count}}
        for name, count in NODES.items()
    ]
    unused = {node["NodeID"]: dict(node["Resources"]) for node in nodes}
    monkeypatch.setattr(module, "_alive", lambda: nodes)
    monkeypatch.setattr(module, "available_resources_per_node", lambda: unused)
    found = module.RayExecutor(ComputeConfig(executor="ray", resources_per_trial={"gpu": 1}))
    found._gpu = 1.0
    found._looked = dict.fromkeys(NODES, True)
    found.nodes_there = nodes
    return found


def end(
    executor: Any, patch: pytest.MonkeyPatch, node: str, failure: Failure, *, died: bool = False
) -> None:
    """A job on a node ends with the failure; or dies of it."""
    outcome = Outcome(state="failed", failure=failure, started=0.0, finished=1.0)
    spec: Any = SimpleNamespace()
    done = Finished(spec, None, "died", failure) if died else Finished(spec, outcome, "")
    module = __import__("sweeper.execution.ray_cluster", fromlist=["ray"])
    patch.setattr(module.ray, "wait", lambda tasks, **options: (tasks, []))
    patch.setattr(module, "collect", lambda job: done)
    executor._jobs = [SimpleNamespace(spec=spec, task="task", node=node)]
    assert executor.wait(0.0) == [done]


def fault(device: str) -> Failure:
    return Failure(kind="faulty_device", message="ECC", devices=(device,))


@pytest.mark.parametrize("died", [False, True])
def test_a_job_avoids_the_node_of_the_device_that_it_failed_on(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, died: bool
) -> None:
    assert cluster.free() == 4
    end(cluster, monkeypatch, "aaaaaaaaaa", fault("host-aaaaaaaa (GPU 1)"), died=died)
    avoid = {"host-aaaaaaaa (GPU 1)"}
    assert cluster.free(avoid) == 2
    assert cluster.next_resources(Path("job"), avoid).node == "bbbbbbbbbb"
    # Others may go there.
    assert cluster.free() == 4


def test_the_node_of_a_device_that_is_set_aside_gets_no_jobs(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(cluster, monkeypatch, "aaaaaaaaaa", fault("host-aaaaaaaa (GPU 1)"))
    cluster.set_aside({"host-aaaaaaaa (GPU 1)"})
    assert cluster.free() == 2
    assert cluster.next_resources(Path("job")).node == "bbbbbbbbbb"
    assert not cluster.exhausted()
    # There is nothing better left.
    end(cluster, monkeypatch, "bbbbbbbbbb", fault("host-bbbbbbbb (GPU 0)"))
    assert cluster.free({"host-bbbbbbbb (GPU 0)"}) == 2
    cluster.set_aside({"host-aaaaaaaa (GPU 1)", "host-bbbbbbbb (GPU 0)"})
    assert cluster.free() == 0
    assert cluster.exhausted()
    # A node that joins has done nothing yet.
    cluster.nodes_there.append({**cluster.nodes_there[0], "NodeID": "cccccccccc"})
    cluster._looked["cccccccccc"] = True
    assert not cluster.exhausted()


def test_a_cluster_without_nodes_waits_for_some(cluster: Any) -> None:
    cluster.nodes_there.clear()
    assert cluster.free() == 0
    assert not cluster.exhausted()
