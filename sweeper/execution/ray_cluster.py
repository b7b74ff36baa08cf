"""Jobs as tasks of a Ray cluster, whose nodes share the study's files."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

# Before Ray is loaded: it reads these once. Nothing about a study is sent to anyone, and a job on a
# CPU hides the GPUs from itself (`worker`).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray._private.state import available_resources_per_node
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeper.config.compute import ComputeConfig
from sweeper.config.device_defaults import CPU, DeviceKind
from sweeper.execution import ray_node
from sweeper.execution.cluster import Node, NodeOrder
from sweeper.execution.device_sharing import make_resources, per_device
from sweeper.execution.devices import all_gpu_kinds
from sweeper.execution.executor import Busy, Finished, Spec
from sweeper.execution.processes import signals_waiting
from sweeper.execution.ray_connection import connected, last_line
from sweeper.execution.ray_jobs import GRACE_SECONDS, RayJob, collect, wait_for_its_process
from sweeper.execution.ray_servers import RayServers, find_vllm_on
from sweeper.execution.set_aside import NodesSetAside
from sweeper.foundation.environment import package_versions
from sweeper.foundation.errors import SweeperError
from sweeper.records import Outcome, Resources

_LOOK_SECONDS = 120.0
"""Seconds that a node may take to report what it sees; it imports sweeper meanwhile."""


class RayExecutor:
    """Runs as many jobs at a time as the cluster's nodes have room for.

    A task starts its job as a process of its own, as on one machine, and waits for it; the job ends
    with its task. Nodes may join and leave: what ran on one that left comes back without an
    outcome.

    Args:
        compute: Resources that the study asks for.
        written: Folders that jobs write to; every node must see them, file locks included.
        read: Files and folders that jobs read.
        run: Function that job processes call in place of ``run_job``; of a module.
    """

    def __init__(
        self,
        compute: ComputeConfig,
        written: Sequence[Path] = (),
        read: Sequence[Path] = (),
        run: Callable[[Spec], Outcome] | None = None,
    ) -> None:
        self._address = compute.address or "auto"
        self._connection = ExitStack()
        self._device = compute.device
        self._most = compute.workers
        resources = compute.resources_per_trial
        self._each = compute.devices_per_trial
        self._threads = compute.threads_per_worker or resources.cpu or self._each
        self._wanted_gpu = resources.gpu
        self._gpu = 0.0
        """Share of each GPU that a job takes; all of a trial's are of one node."""
        self._written = [path.absolute() for path in written]
        self._read = [path.absolute() for path in read]
        self._jobs: list[RayJob] = []
        self._looked: dict[str, bool] = {}
        """True for each node, by its id, on which jobs can run."""
        self._kept_to: frozenset[str] | None = None
        """Ids of the nodes on which jobs may start now; None: all."""
        self._faulty = NodesSetAside()
        self._environment = {
            key: os.environ[key] for key in ray_node.ENVIRONMENT if key in os.environ
        }
        self._work = run
        # Tasks wait for processes, so their workers can be used again, and start jobs quickly.
        self._run = ray.remote(max_calls=0, max_retries=0)(ray_node.run_task)
        self._look = ray.remote(num_cpus=0, max_calls=0, max_retries=0)(ray_node.look)
        self._gpus = ray.remote(num_cpus=0, max_calls=0, max_retries=0)(all_gpu_kinds)

    def __enter__(self) -> RayExecutor:
        """Connect to the cluster and look over its nodes.

        Raises:
            SweeperError: It does not answer or refuses this machine's token, a node does not see
                what it must, or no node has what a trial takes.
        """
        self._connection.enter_context(connected(self._address))
        try:
            self._gpu = self._share_of_gpu()
            if problems := self._look_over(_alive()):
                listed = "\n".join(f"  {problem}" for problem in problems)
                raise SweeperError(
                    f"compute.executor: not every node of the Ray cluster can run this study's"
                    f" trials:\n{listed}\n"
                    "Nodes must share --runs, --cache-dir and the study's files, at the same paths,"
                    " and have the same packages."
                )
            if not any(self._room(found) for found in _alive()):
                raise SweeperError(self._too_much())
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop whatever still runs, and leave the cluster."""
        try:
            self.stop()
        finally:
            self._connection.close()

    def free(self, avoid: Collection[str] = ()) -> int:
        """Return how many jobs could be submitted now; ``avoid`` as in ``Executor``."""
        return len(self._free_nodes(avoid))

    def devices(self) -> tuple[str, ...]:
        """Return the devices that jobs run on, by the names that jobs have for them."""
        return (self.next_resources(Path()).device,)

    def next_resources(self, directory: Path, avoid: Collection[str] = ()) -> Resources:
        """Return where the next job runs that works in ``directory``; ``avoid`` as in ``free``."""
        found = [f"cuda:{index}" if self._gpu else "cpu" for index in range(self._each)]
        place = make_resources(directory, found, self._threads)
        sharing = per_device(self._gpu) if self._gpu else 1
        node = next(iter(self._free_nodes(avoid)), "")
        return place.model_copy(update={"node": node, "sharing": sharing})

    def set_aside(self, devices: Collection[str]) -> None:
        """Give the nodes of these devices no more jobs, and all others again."""
        self._faulty.set(devices)

    def exhausted(self) -> bool:
        """Return True if there are nodes for jobs, and all of them are set aside."""
        able = {found["NodeID"] for found in self._kept() if self._room(found)}
        return bool(able) and able <= self._faulty.aside

    def submit(self, spec: Spec) -> None:
        """Start a job, on the node that its place names, if it names one.

        Raises:
            Busy: Nothing is free, or that node is not.
        """
        free = self._free_nodes()
        node = spec.place.node or next(iter(free), "")
        if node not in free:
            raise Busy("All nodes of the cluster are busy.")
        place = spec.place.model_copy(update={"directory": os.path.abspath(spec.place.directory)})
        text = spec.model_copy(update={"place": place}).model_dump_json()
        run = self._run.options(
            num_cpus=self._threads,
            num_gpus=self._gpu * self._each,
            name=f"sweeper {Path(place.directory).name}",
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        with signals_waiting():
            task = run.remote(text, self._gpu, os.getcwd(), self._environment, self._work)
            self._jobs.append(RayJob(spec, task, node))

    def wait(self, timeout: float) -> list[Finished]:
        """Return the jobs that ended, waiting up to ``timeout`` seconds for the first."""
        if not self._jobs:
            time.sleep(timeout)
            return []
        tasks = [job.task for job in self._jobs]
        if ray.wait(tasks, timeout=timeout)[0]:
            ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        else:
            ended = []
        finished = [job for job in self._jobs if job.task in ended]
        self._jobs = [job for job in self._jobs if job.task not in ended]
        done = [collect(job) for job in finished]
        for job, end in zip(finished, done, strict=True):
            self._faulty.notice(end, job.node)
        return done

    def running(self) -> list[Spec]:
        """Return the jobs that run, in the order of their start."""
        return [job.spec for job in self._jobs]

    def cancel(self, spec: Spec) -> None:
        """End one job now; ``wait`` returns it, with an outcome only if it was quicker."""
        for job in self._jobs:
            if job.spec == spec:
                ray.cancel(job.task, force=True)

    def stop(self) -> None:
        """End all running jobs now; they report no outcome."""
        for job in self._jobs:
            ray.cancel(job.task, force=True)
        tasks = [job.task for job in self._jobs]
        if tasks:
            ray.wait(tasks, num_returns=len(tasks), timeout=GRACE_SECONDS)
        for job in self._jobs:
            wait_for_its_process(job.spec)
        self._jobs = []

    # Servers next to jobs

    @property
    def gpu_per_job(self) -> float:
        """GPUs that a job takes, possibly a part of one; 0: jobs run on CPUs."""
        return self._gpu * self._each

    def device_kinds(self) -> list[DeviceKind]:
        """Return the kinds of devices of the nodes on which jobs can run now, each once.

        A node that does not answer counts as one whose GPUs are not known.
        """
        if not self._gpu:
            return [CPU]
        asked = []
        for found in filter(self._room, self._usable()):
            where = NodeAffinitySchedulingStrategy(found["NodeID"], soft=False)
            asked.append(self._gpus.options(scheduling_strategy=where).remote())
        kinds: dict[DeviceKind, None] = {}
        for task in asked:
            try:
                answer = ray.get(task, timeout=_LOOK_SECONDS)
            except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError):
                answer = []
            kinds |= dict.fromkeys(answer or [DeviceKind("cuda", "GPU")])
        return list(kinds)

    def nodes(self) -> list[Node]:
        """Return the nodes on which jobs can run now."""
        alive = self._usable()
        return [
            Node(
                found["NodeID"],
                found["NodeManagerHostname"],
                int(found["Resources"].get("GPU", 0)),
            )
            for found in alive
            if self._room(found)
        ]

    def keep_to(self, nodes: Collection[str] | None) -> None:
        """Start jobs only on the nodes of these ids; None: on all."""
        self._kept_to = None if nodes is None else frozenset(nodes)

    def find_vllm(self, nodes: Sequence[Node], python: str | None) -> list[tuple[str, str]]:
        """Return for each node the version of vLLM that it has, or why it has none."""
        return find_vllm_on(nodes, python)

    def start_servers(self, node: Node, order: NodeOrder) -> RayServers:
        """Begin to start servers on a node."""
        return RayServers(node, order, self._environment)

    def _share_of_gpu(self) -> float:
        if self._wanted_gpu is not None:
            return self._wanted_gpu
        has_gpu = any(found["Resources"].get("GPU") for found in _alive())
        return 1.0 if self._device == "cuda" or (self._device == "auto" and has_gpu) else 0.0

    def _room(self, found: dict[str, Any]) -> int:
        """Return how many jobs fit on an empty node."""
        room = int(found["Resources"].get("CPU", 0) // self._threads)
        if self._gpu:
            gpus = int(found["Resources"].get("GPU", 0))
            room = min(room, gpus * per_device(self._gpu) // self._each)
        return room

    def _free_nodes(self, avoid: Collection[str] = ()) -> list[str]:
        """Return the nodes of the next jobs, one entry a job: the emptiest node first."""
        alive = [found for found in self._kept() if found["NodeID"] not in self._faulty.aside]
        others = [found for found in alive if found["NodeID"] not in self._faulty.of(avoid)]
        if any(self._room(found) for found in others):
            alive = others
        running = Counter(job.node for job in self._jobs)
        unused = available_resources_per_node()
        free = [
            (running[name] + taken, name)
            for name, found in ((found["NodeID"], found) for found in alive)
            # What others use is free no more; what we use may not be reported yet.
            for taken in range(
                min(self._room(found) - running[name], self._unused(unused.get(name, {})))
            )
        ]
        most = len(free) if self._most is None else self._most - len(self._jobs)
        return [name for _, name in sorted(free)][: max(0, most)]

    def _kept(self) -> list[dict[str, Any]]:
        """Return the nodes that jobs may run on, whether their devices are set aside or not."""
        kept = self._kept_to
        return [found for found in self._usable() if kept is None or found["NodeID"] in kept]

    def _usable(self) -> list[dict[str, Any]]:
        """Return the nodes that see what they must."""
        alive = _alive()
        for problem in self._look_over(alive):
            warnings.warn(f"{problem}: no trial runs there", stacklevel=3)
        return [found for found in alive if self._looked.get(found["NodeID"])]

    def _unused(self, resources: Mapping[str, float]) -> int:
        """Return how many jobs a node has room for next to whatever it runs."""
        room = int((resources.get("CPU", 0) + 1e-6) // self._threads)
        if self._gpu:
            gpus = self._gpu * self._each
            room = min(room, int((resources.get("GPU", 0) + 1e-6) // gpus))
        return room

    def _look_over(self, alive: Sequence[dict[str, Any]]) -> list[str]:
        """Have the nodes that are new look for what they must see; what is wrong with them."""
        new = [found for found in alive if found["NodeID"] not in self._looked]
        wrong: list[str] = []
        if not new:
            return wrong
        with ray_node.locked_tokens(self._written) as tokens:
            inputs = tuple(str(path) for path in self._read)
            view = ray_node.NodeView(tokens, inputs, package_versions(), bool(self._gpu))
            looks = []
            for found in new:
                where = NodeAffinitySchedulingStrategy(found["NodeID"], soft=False)
                looks.append(self._look.options(scheduling_strategy=where).remote(view))
            ray.wait(looks, num_returns=len(looks), timeout=_LOOK_SECONDS)
            for found, task in zip(new, looks, strict=True):
                try:
                    problems = ray.get(task, timeout=0)
                except ray.exceptions.GetTimeoutError:
                    problems = [f"did not answer within {_LOOK_SECONDS:g} s"]
                except ray.exceptions.RayError as error:
                    problems = [f"cannot run sweeper: {last_line(error)}"]
                self._looked[found["NodeID"]] = not problems
                name = f"{found['NodeManagerHostname']} ({found['NodeManagerAddress']})"
                wrong += [f"{name} {problem}" for problem in problems]
        return wrong

    def _too_much(self) -> str:
        alive = _alive()
        largest = {
            kind: max((found["Resources"].get(kind, 0) for found in alive), default=0)
            for kind in ("CPU", "GPU")
        }
        gpu = f" and {self._gpu * self._each:g} GPU" if self._gpu else ""
        found = f" and {largest['GPU']:g} GPU" if self._gpu else ""
        return (
            f"compute.resources_per_trial: each trial takes {self._threads} CPU{gpu}, but no node"
            f" of the Ray cluster has as much (the most are {largest['CPU']:g} CPU{found};"
            f" nodes: {len(alive)})."
        )


def _alive() -> list[dict[str, Any]]:
    return [found for found in ray.nodes() if found["Alive"]]
