"""What a study needs of a cluster to have servers next to its jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sweeper.config.device_defaults import DeviceKind
from sweeper.records import ServedModel
from sweeper.records.layout import ServerPaths
from sweeper.serving.model_server import Patience
from sweeper.serving.order import ServerOrder


@dataclass(frozen=True)
class Node:
    """A machine of a cluster on which jobs can run."""

    id: str
    host: str
    """Name of the machine; two nodes may be on one."""
    gpus: int
    """Number of its GPUs that jobs may be given."""

    @property
    def name(self) -> str:
        """Name for people, and for folders."""
        return f"{self.host}-{self.id[:8]}"


@dataclass(frozen=True)
class NodeOrder:
    """The servers of one role on a node."""

    order: ServerOrder
    version: str
    """Version of vLLM there."""
    servers: Sequence[tuple[ServerPaths, tuple[str, ...]]]
    """Files of each server, and its devices, by the names that torch has for those of the node."""
    own_gpus: int
    """Number of GPUs that the cluster chooses for it, in place of these devices, and gives to no
    job meanwhile; 0: none."""
    patience: Patience


class NodeServers(Protocol):
    """The servers of one role on one node, as their coordinator has them."""

    addresses: Mapping[str, ServedModel]
    """Addresses of those that have answered, by their GPUs' names in ``CUDA_VISIBLE_DEVICES``, or
    ``cpu``."""
    ready: bool
    """True once all have answered."""
    failure: str
    """Reason for which one cannot be started or does not stay up; empty: none."""
    lost: str
    """Reason for which nothing watches the servers any more; empty: something does."""

    def look(self) -> list[str]:
        """Bring the attributes up to date, without waiting; return what happened, a line each."""

    def stop(self) -> None:
        """Have the servers end, without waiting for it."""

    def end(self) -> None:
        """End the servers."""


class Cluster(Protocol):
    """An executor whose jobs run on the nodes of a cluster."""

    @property
    def gpu_per_job(self) -> float:
        """GPUs that a job takes, possibly a part of one; 0: jobs run on CPUs."""

    def device_kinds(self) -> list[DeviceKind]:
        """Return the kinds of devices of the nodes on which jobs can run now, each once."""

    def nodes(self) -> list[Node]:
        """Return the nodes on which jobs can run now."""

    def keep_to(self, nodes: Collection[str] | None) -> None:
        """Start jobs only on the nodes of these ids; None: on all."""

    def find_vllm(self, nodes: Sequence[Node], python: str | None) -> list[tuple[str, str]]:
        """Return for each node the version of vLLM that it has, or why it has none."""

    def start_servers(self, node: Node, order: NodeOrder) -> NodeServers:
        """Begin to start servers on a node."""
