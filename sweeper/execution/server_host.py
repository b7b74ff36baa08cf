"""The servers of one role on a node of a cluster, in a process there that watches them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.config.started_server import StartedServer
from sweeper.execution.cluster import NodeOrder
from sweeper.foundation.errors import ServerError
from sweeper.records import ServedModel
from sweeper.serving.launch import find_vllm, server_python
from sweeper.serving.model_server import ModelServer

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_OF_WORKERS = (_VISIBLE, "OMP_NUM_THREADS")
"""Variables that Ray sets for what one of its workers does."""


@dataclass(frozen=True)
class HostReport:
    """What a host reports of its servers."""

    addresses: Mapping[str, ServedModel]
    """Addresses of those that have answered, by their GPUs' names, or ``cpu``."""
    ready: bool
    failure: str
    messages: Sequence[str]


class ServerHost:
    """Starts, watches, restarts and ends servers on its node; an actor of the coordinator's.

    When its process ends, the servers' leases are free, and their keepers end them after a while.

    Args:
        order: The servers.
        environment: Variables that they take over from the coordinator.
    """

    def __init__(self, order: NodeOrder, environment: Mapping[str, str]) -> None:
        given = os.environ.get(_VISIBLE)
        _restore_environment()
        os.environ.update(environment)
        self._servers: dict[str, ModelServer] = {}
        for paths, devices in order.servers:
            if order.own_gpus:
                devices = node_devices(given, os.environ.get(_VISIBLE))
            launch = order.order.launch(order.version, devices)
            name = launch.environment[_VISIBLE] or "cpu"
            self._servers[name] = ModelServer(launch, paths, order.patience)

    def start(self) -> HostReport:
        """Begin to start the servers."""
        for server in self._servers.values():
            server.start()
        return self.report()

    def report(self) -> HostReport:
        """Return the servers' state, and what happened since the last report."""
        servers = self._servers.values()
        failure = ""
        for server in servers:
            try:
                server.check()
            except ServerError as error:
                failure = failure or str(error)
        addresses = {name: server.address for name, server in self._servers.items()}
        return HostReport(
            addresses={name: address for name, address in addresses.items() if address},
            ready=all(addresses.values()),
            failure=failure,
            messages=[line for server in servers for line in server.messages()],
        )

    def end(self) -> HostReport:
        """End the servers."""
        for server in self._servers.values():
            server.end()
        return self.report()


def find_here(python: str | None) -> tuple[str, str]:
    """Return the version of vLLM on this node, or why it has none; see ``find_vllm``."""
    return find_vllm(server_python(StartedServer(start="vllm", python=python)))


def node_devices(given: str | None, all_gpus: str | None) -> tuple[str, ...]:
    """Return torch's names on the whole node of GPUs that a process was given.

    Args:
        given: ``CUDA_VISIBLE_DEVICES`` of the process.
        all_gpus: ``CUDA_VISIBLE_DEVICES`` of the node; None: all of the machine's GPUs, by number.
    """
    names, known = _names(given), _names(all_gpus)
    return tuple(f"cuda:{known.index(name) if known else int(name)}" for name in names)


def _names(visible: str | None) -> list[str]:
    return [name.strip() for name in (visible or "").split(",") if name.strip()]


def _restore_environment() -> None:
    """Give variables that Ray has set the values with which this process was started."""
    entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    before = dict(entry.partition(b"=")[::2] for entry in entries)
    for name in _OF_WORKERS:
        os.environ.pop(name, None)
        if (value := before.get(name.encode())) is not None:
            os.environ[name] = os.fsdecode(value)
