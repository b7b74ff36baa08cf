"""Servers on the nodes of a Ray cluster, each role's kept by an actor on its node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.execution.cluster import Node, NodeOrder
from sweeper.execution.ray_connection import last_line
from sweeper.execution.server_host import HostReport, ServerHost, find_here
from sweeper.records import ServedModel

_LOOK_SECONDS = 120.0
"""Seconds that a node may take to say which vLLM it has; it imports sweeper meanwhile."""
_END_SECONDS = 60.0
"""Seconds that a node may take to end its servers."""
_BEGIN_SECONDS = 5.0
"""The same for a host that has not reported yet."""
_LIVES_ON = {"env_vars": {"RAY_kill_child_processes_on_worker_exit": "false"}}
"""Ray kills the children of a worker that ends. A server has a keeper for that, which may leave it
to the study's next run."""


def find_vllm_on(nodes: Sequence[Node], python: str | None) -> list[tuple[str, str]]:
    """Return for each node the version of vLLM that it has, or why it has none."""
    ask = ray.remote(num_cpus=0, max_calls=0, max_retries=0)(find_here)
    tasks = [ask.options(scheduling_strategy=_on(node)).remote(python) for node in nodes]
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=_LOOK_SECONDS)
    return [_answer(task) for task in tasks]


def _answer(task: Any) -> tuple[str, str]:
    try:
        version, problem = ray.get(task, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return "", f"expected an answer within {_LOOK_SECONDS:g} s, found none"
    except ray.exceptions.RayError as error:
        return "", f"expected a node that can run sweeper: {last_line(error)}"
    return version, problem


class RayServers:
    """The servers of one role on one node; see ``NodeServers``.

    Args:
        node: The node.
        order: Its servers.
        environment: Variables that they take over from the coordinator.
    """

    def __init__(self, node: Node, order: NodeOrder, environment: Mapping[str, str]) -> None:
        self.addresses: Mapping[str, ServedModel] = {}
        self.ready = False
        self.failure = ""
        self.lost = ""
        host = ray.remote(num_cpus=0, max_restarts=0)(ServerHost)
        self._host = host.options(
            num_gpus=order.own_gpus,
            scheduling_strategy=_on(node),
            runtime_env=_LIVES_ON,
        ).remote(order, dict(environment))
        self._answer = self._host.start.remote()
        self._begun = self._stopping = False

    def look(self) -> list[str]:
        """Bring the attributes up to date, without waiting; return what happened, a line each."""
        done = bool(self.lost or self.failure) or self._stopping
        if done or not ray.wait([self._answer], timeout=0)[0]:
            return []
        self._begun = True
        return self._take()

    def stop(self) -> None:
        """Have the servers end, without waiting for it."""
        if not self._stopping:
            self._stopping = True
            self._answer = self._host.end.remote()

    def end(self) -> None:
        """End the servers."""
        self.stop()
        # A host that waits for GPUs has no servers yet.
        seconds = _END_SECONDS if self._begun else _BEGIN_SECONDS
        with suppress(ray.exceptions.RayError):
            ray.get(self._answer, timeout=seconds)
        self.addresses, self.ready = {}, False
        # A host that Ray has not made yet cannot be killed.
        with suppress(ray.exceptions.RayError):
            ray.kill(self._host)

    def _take(self) -> list[str]:
        try:
            report: HostReport = ray.get(self._answer)
        except ray.exceptions.ActorDiedError as error:
            self.addresses, self.ready = {}, False
            # What raises in the host's constructor would raise there again.
            if error.actor_init_failed:
                self.failure = last_line(error)
            else:
                self.lost = last_line(error)
            return []
        except ray.exceptions.ActorUnavailableError:
            report = HostReport(self.addresses, self.ready, "", ())
        except ray.exceptions.RayTaskError as error:
            report = HostReport(self.addresses, False, last_line(error), ())
        self.addresses, self.ready, self.failure = report.addresses, report.ready, report.failure
        self._answer = self._host.report.remote()
        return list(report.messages)


def _on(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.id, soft=False)
