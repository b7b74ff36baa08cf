"""The models that a study serves on a cluster: every node has servers of its own."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from types import TracebackType

from sweeper.config.base import KeyPath
from sweeper.config.loading import LoadedStudy
from sweeper.config.served_students import students_server_key
from sweeper.config.started_server import StartedServer
from sweeper.execution.cluster import Cluster, Node, NodeOrder, NodeServers
from sweeper.foundation.errors import ConfigError, ServerError
from sweeper.records import Resources
from sweeper.records.layout import ServerPaths, StudyPaths
from sweeper.serving.model_server import Patience
from sweeper.study.manifest import StudyManifest
from sweeper.study.served_models import LOOK_SECONDS, ROLES, Role, roles_of_trials
from sweeper.study.served_orders import (
    TEACHER_KEY,
    check_teacher,
    memory_of_servers,
    started_server,
    student_order,
    teacher_order,
    vllm_key,
)

_MOST_LOST = 3
"""Times that a node's servers may be left without the process that watches them."""


class ServedOnNodes:
    """The servers of a study on the nodes where its jobs run; see ``ServedModels``.

    A node has one server of the teacher, and one of students' weights for each of its GPUs, or for
    its CPU. Jobs start only on nodes whose servers have answered. A node that joins gets its own,
    and no jobs if it cannot have them; the servers of a node that leaves are forgotten.

    Args:
        study: The study.
        paths: Its files.
        manifest: Its manifest, with the hashes of its models.
        cluster: Executor of its jobs, entered already.
        patience: How long servers are waited for.

    Raises:
        ConfigError: A node has no vLLM, or it cannot serve the models from there.
    """

    def __init__(
        self,
        study: LoadedStudy,
        paths: StudyPaths,
        manifest: StudyManifest,
        cluster: Cluster,
        patience: Patience,
    ) -> None:
        self._study, self._paths, self._manifest = study, paths, manifest
        self._cluster, self._patience = cluster, patience
        self._roles: frozenset[Role] = frozenset()
        self._jobs: int | None = None
        self._servers: dict[tuple[str, Role], NodeServers] = {}
        """Servers by the node's id."""
        self._names: dict[str, str] = {}
        """Names of all nodes that have been looked at, by id."""
        self._versions: dict[tuple[str, Role], str] = {}
        self._unfit: set[str] = set()
        """Nodes that cannot have the servers, and so get no jobs."""
        self._lost: Counter[tuple[str, Role]] = Counter()
        self._again: dict[tuple[str, Role], float] = {}
        """When servers that nothing watched may be found again, by ``time.monotonic``."""
        self._messages: list[str] = []
        config = study.config
        self._keys: dict[Role, KeyPath] = {}
        """Keys that ask for servers."""
        if server := started_server(config):
            check_teacher(study)
            self._keys["teacher"] = vllm_key(server)
        if key := students_server_key(config):
            self._keys["student"] = key
        nodes = cluster.nodes()
        problems = [(key, text) for node in nodes for key, text in self._problems(node)]
        if problems:
            raise ConfigError([study.file.problem(key, text) for key, text in problems])
        self._founders = frozenset(node.id for node in nodes)
        self.students = "student" in self._keys
        """True if students' weights may be served."""

    def __enter__(self) -> ServedOnNodes:
        """Return the servers, none of them started yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all servers."""
        self.end()

    def serve(
        self,
        roles: Collection[Role],
        keep: Collection[Role],
        say: Callable[[str | None], None],
        meanwhile: Callable[[], None],
        jobs: int | None = None,
    ) -> None:
        """Have the servers of ``roles`` up on a node, leave those to ``keep``, end all others.

        Args:
            roles: What jobs may ask now.
            keep: What they may ask later.
            say: Called with what is waited for, in words; at last with None.
            meanwhile: Called several times a second; what it raises ends the wait.
            jobs: Number of these jobs, if it is known: no more nodes have servers.

        Raises:
            ConfigError: No node can have them.
            ServerError: One cannot be started.
        """
        self._roles = frozenset(role for role in roles if role == "teacher" or self.students)
        self._jobs = jobs
        try:
            for role in ROLES:
                ending = [key for key in self._servers if key[1] == role]
                if ending and role not in (*roles, *keep):
                    # Its memory is for what follows.
                    say(f"ending the {role}'s server")
                    self._end(ending)
            self.check()
            if self._waits():
                up = {key[1] for key, servers in self._servers.items() if servers.ready}
                names = [f"the {role}'s server" for role in ROLES if role in self._roles - up]
                say(f"starting {' and '.join(names) or 'servers'}")
            while self._waits():
                self.check()
                meanwhile()
                time.sleep(LOOK_SECONDS)
            meanwhile()
        finally:
            say(None)

    def end(self) -> None:
        """End all servers."""
        self._roles = frozenset()
        self._end(list(self._servers))

    def place(self, resources: Resources) -> Resources:
        """Return a job's place with the servers of its node that it may ask."""
        teacher = self._servers.get((resources.node, "teacher"))
        student = self._servers.get((resources.node, "student"))
        students = dict(student.addresses) if student else {}
        return resources.model_copy(
            update={
                "served_teacher": next(iter(teacher.addresses.values()), None) if teacher else None,
                "served_student": students.pop("cpu", None),
                "gpu_students": students,
                "served_memory": memory_of_servers(self._study.config, student=bool(students)),
            }
        )

    def check(self) -> None:
        """Follow the nodes that join and leave; raise if a server is not up for good.

        Raises:
            ServerError: Names the node and the reason, and what to try.
        """
        for node in self._nodes():
            for role in ROLES:
                key = (node.id, role)
                wanted = role in self._roles and key not in self._servers
                if wanted and self._again.get(key, 0.0) <= time.monotonic():
                    order = self._order(node, role)
                    self._servers[key] = self._cluster.start_servers(node, order)
        for key, servers in list(self._servers.items()):
            name = self._names[key[0]]
            self._messages += [f"{name}: {line}" for line in servers.look()]
            if servers.failure:
                self._fail(key, f"On the node {name}: {servers.failure}")
            elif servers.lost:
                self._lose(key, servers.lost)
        self._cluster.keep_to(self._ready() if self._roles else None)

    def messages(self) -> list[str]:
        """Return what happened to the servers since the last call, a line each."""
        lines, self._messages = self._messages, []
        return lines

    def _nodes(self) -> list[Node]:
        """Return the nodes that should have servers now; forget those that have left."""
        nodes = self._cluster.nodes()
        alive = {node.id for node in nodes}
        for node_id, role in [key for key in self._servers if key[0] not in alive]:
            del self._servers[node_id, role]
            self._messages.append(f"{self._names[node_id]}: left, with the {role}'s server")
        for node in nodes:
            if node.id not in self._names:
                self._reject(node, [text for _, text in self._problems(node)])
        nodes = [node for node in nodes if node.id not in self._unfit]
        # Those that have servers are the first to be used again.
        used = {node_id for node_id, _ in self._servers}
        nodes.sort(key=lambda node: (node.id not in used, node.name))
        return nodes[: self._jobs]

    def _problems(self, node: Node) -> list[tuple[KeyPath, str]]:
        """Return why a node that is new cannot have the servers that are asked for."""
        self._names[node.id] = node.name
        problems: list[tuple[KeyPath, str]] = []
        config = self._study.config
        server = started_server(config)
        pythons: dict[Role, str | None] = {"student": config.compute.vllm.python}
        if server is not None:
            pythons["teacher"] = server.python
            problems += self._gpu_problems(node, server)
        for role, key in self._keys.items():
            [(version, problem)] = self._cluster.find_vllm([node], pythons[role])
            self._versions[node.id, role] = version
            if problem:
                problems.append((key, f"{problem} (on the node {node.name})"))
        return problems

    def _gpu_problems(self, node: Node, server: StartedServer) -> list[tuple[KeyPath, str]]:
        taken, own = teacher_gpus(node.gpus, server.gpus, self._cluster.gpu_per_job)
        if taken > node.gpus:
            message = f"expected at most {node.gpus}, the GPUs of the node {node.name}"
            return [((*TEACHER_KEY, "gpus"), f"{message}, found {taken}")]
        asked = "teacher" in roles_of_trials(self._study.config, "sweeper")
        if asked and taken > own and "gpu_memory" not in server.model_fields_set:
            message = (
                f"expected a share: trials ask this server, and the node {node.name} has no GPU to"
                " spare for it"
            )
            return [((*TEACHER_KEY, "gpu_memory"), message)]
        return []

    def _reject(self, node: Node, problems: Sequence[str]) -> None:
        if problems:
            self._unfit.add(node.id)
            self._messages.append(f"{problems[0]}: no job runs there")

    def _order(self, node: Node, role: Role) -> NodeOrder:
        study = self._study
        servers: list[tuple[ServerPaths, tuple[str, ...]]]
        own = 0
        if role == "teacher":
            order = teacher_order(study, self._manifest)
            assert isinstance(order.server, StartedServer)
            taken, own = teacher_gpus(node.gpus, order.server.gpus, self._cluster.gpu_per_job)
            last = tuple(f"cuda:{at}" for at in range(node.gpus - taken, node.gpus)) or ("cpu",)
            servers = [(self._files(f"teacher@{node.name}"), last)]
        else:
            order = student_order(study, self._paths)
            gpus = [f"cuda:{at}" for at in range(node.gpus)] if self._cluster.gpu_per_job else []
            servers = [
                (self._files(f"student@{node.name}@{device}"), (device,))
                for device in gpus or ["cpu"]
            ]
        return NodeOrder(order, self._versions[node.id, role], servers, own, self._patience)

    def _files(self, name: str) -> ServerPaths:
        """Return a server's files by a path that does not depend on the working directory."""
        return ServerPaths(self._paths.server(name).directory.absolute())

    def _ready(self) -> frozenset[str]:
        """Return the ids of the nodes on which all servers that jobs may ask have answered."""
        ready = {key for key, servers in self._servers.items() if servers.ready}
        nodes = {node_id for node_id, _ in ready}
        return frozenset(
            node_id for node_id in nodes if all((node_id, role) in ready for role in self._roles)
        )

    def _waits(self) -> bool:
        return bool(self._roles) and not self._ready()

    def _fail(self, key: tuple[str, Role], failure: str) -> None:
        """Do without a node that has joined since the start, or give up.

        Raises:
            ServerError: The node was there from the start, or there is no other.
        """
        self._end([key])
        self._unfit.add(key[0])
        if key[0] in self._founders or not self._ready():
            raise ServerError(failure)
        self._messages.append(f"{failure.splitlines()[0]}: no job runs there any more")

    def _lose(self, key: tuple[str, Role], reason: str) -> None:
        """Have servers found again whose watching process has ended, on a node that is alive."""
        del self._servers[key]
        self._lost[key] += 1
        name = self._names[key[0]]
        if self._lost[key] > _MOST_LOST:
            raise ServerError(
                f"On the node {name}: the process that watches the servers was ended"
                f" {self._lost[key]} times: {reason} Run the same command again to resume."
            )
        waits = self._patience.back_off
        seconds = waits[min(self._lost[key], len(waits)) - 1]
        self._again[key] = time.monotonic() + seconds
        ended = f"the process that watches the {key[1]}'s server has ended"
        self._messages.append(f"{name}: {ended}: {reason}")

    def _end(self, keys: Sequence[tuple[str, Role]]) -> None:
        ending = [self._servers.pop(key) for key in keys]
        for servers in ending:
            servers.stop()
        for servers in ending:
            servers.end()


def teacher_gpus(gpus: int, wanted: int | None, gpu_per_job: float) -> tuple[int, int]:
    """Return how many of a node's GPUs the teacher's server takes, and how many to itself.

    Args:
        gpus: Number of the node's GPUs.
        wanted: Number that the study asks for; None: one, where there are any.
        gpu_per_job: GPUs that a job takes, possibly a part of one.
    """
    taken = min(1, gpus) if wanted is None else wanted
    return taken, taken if taken + gpu_per_job <= gpus else 0
