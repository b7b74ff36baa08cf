"""The models that a study serves: what each server is for, its devices, and when it is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Literal

from sweeper.config.base import KeyPath
from sweeper.config.loading import LoadedStudy
from sweeper.config.rollouts import RolloutEngine
from sweeper.config.served_students import (
    may_serve_students,
    samples_rollouts,
    students_server_key,
)
from sweeper.config.started_server import StartedServer
from sweeper.config.study import StudyConfig
from sweeper.execution.devices import find_devices
from sweeper.foundation.errors import ConfigError, Problem, ServerError, SweeperError
from sweeper.records import Resources
from sweeper.records.layout import StudyPaths
from sweeper.serving.launch import find_vllm, server_python
from sweeper.serving.model_server import ModelServer, Patience
from sweeper.study.manifest import StudyManifest
from sweeper.study.served_orders import (
    TEACHER_KEY,
    check_teacher,
    memory_of_servers,
    started_server,
    student_order,
    teacher_order,
    vllm_key,
)

Role = Literal["teacher", "student"]
"""What a server has: the teacher, or the weights of the student that asks."""

ROLES: tuple[Role, ...] = ("teacher", "student")
LOOK_SECONDS = 0.25
_USUAL = Patience()


# What needs them


def roles_of_step(config: StudyConfig, step: str) -> frozenset[Role]:
    """Return the servers that a step of the preparation may ask."""
    roles: set[Role] = set()
    through_servers = config.evaluation.engine == "vllm"
    asked = step == "teacher" and (config.needs_teacher_outputs() or _judges(config))
    scored = step in ("teacher", "test_teacher") and through_servers
    if started_server(config) is not None and (asked or scored):
        roles.add("teacher")
    if step in ("student", "test_student") and through_servers:
        roles.add("student")
    if step == "engines" and config.rollouts.engine == "auto" and may_serve_students(config):
        roles.add("student")
    return frozenset(roles)


def roles_of_trials(config: StudyConfig, engine: RolloutEngine) -> frozenset[Role]:
    """Return the servers that trials may ask; ``engine`` is the one of their rollouts."""
    roles: set[Role] = set()
    if started_server(config) is not None and _judges(config):
        roles.add("teacher")
    sampled = engine == "vllm" and samples_rollouts(config)
    if sampled or config.evaluation.engine == "vllm":
        roles.add("student")
    return frozenset(roles)


def _judges(config: StudyConfig) -> bool:
    """Return whether an arm compares its student's distribution with the teacher's."""
    return any(arm.method in ("gkd", "supervised_kd") for arm in config.arms.values())


# Their devices


def server_devices(study: LoadedStudy, server: StartedServer) -> tuple[str, ...]:
    """Return the devices of the teacher's server: the machine's last GPUs, or the CPU.

    Raises:
        ConfigError: The machine has fewer GPUs than the server asks for, or trials have no room.
    """
    gpus = [device for device in find_devices("auto") if device.startswith("cuda")]
    wanted = min(1, len(gpus)) if server.gpus is None else server.gpus
    if wanted > len(gpus):
        message = f"expected at most {len(gpus)}, the GPUs of this machine, found {wanted}"
        raise ConfigError([study.file.problem((*TEACHER_KEY, "gpus"), message)])
    shared = 0 < wanted == len(gpus) and "teacher" in roles_of_trials(study.config, "sweeper")
    if shared and "gpu_memory" not in server.model_fields_set:
        message = (
            f"expected a share: trials ask this server, and it has all {wanted} of the machine's"
            " GPUs, where they train too"
        )
        raise ConfigError([study.file.problem((*TEACHER_KEY, "gpu_memory"), message)])
    return tuple(gpus[len(gpus) - wanted :]) or ("cpu",)


def trial_devices(study: LoadedStudy) -> list[str] | None:
    """Return the devices of trials next to a teacher's server that they ask.

    Returns:
        None for all devices: there is no such server, or it shares its devices with trials.
    """
    config = study.config
    server = started_server(config)
    if server is None or config.compute.executor != "local":
        return None
    if "teacher" not in roles_of_trials(config, "sweeper"):
        return None  # it ends before trials
    taken = server_devices(study, server)
    wanted = "cpu" if config.compute.resources_per_trial.gpu == 0 else config.compute.device
    try:
        return [device for device in find_devices(wanted) if device not in taken] or None
    except SweeperError:
        return None  # the executor says what is missing


def server_problems(study: LoadedStudy) -> Sequence[Problem]:
    """Return why a server could not be started on this machine; nothing is started.

    Nothing is found out about the nodes of a cluster.
    """
    try:
        if study.config.compute.executor != "local":
            if started_server(study.config):
                check_teacher(study)
            return ()
        if server := started_server(study.config):
            server_devices(study, server)
            check_teacher(study)
            _version(study, server.python, vllm_key(server))
        if key := students_server_key(study.config):
            _version(study, study.config.compute.vllm.python, key)
    except ConfigError as error:
        return error.problems
    return ()


class ServedModels:
    """The servers of a study; a context manager that ends them.

    Args:
        study: The study.
        paths: Its files.
        manifest: Its manifest, with the hashes of its models.
        devices: Devices that jobs run on: students' weights have a server on each.
        patience: How long servers are waited for.

    Raises:
        ConfigError: vLLM is not installed, or cannot serve the models from here.
    """

    def __init__(
        self,
        study: LoadedStudy,
        paths: StudyPaths,
        manifest: StudyManifest,
        devices: Sequence[str],
        patience: Patience = _USUAL,
    ) -> None:
        self._study, self._paths, self._devices = study, paths, tuple(dict.fromkeys(devices))
        self._patience = patience
        config = study.config
        self._teacher = _teacher_server(study, paths, manifest, patience)
        self._students: dict[str, ModelServer] = {}
        self._tries_students = False
        """True while the servers of students' weights are up for a test only."""
        self._notes: list[str] = []
        self._version = ""
        self.students = False
        """True if students' weights may be served."""
        if may_serve_students(config):
            python = server_python(config.compute.vllm)
            if key := students_server_key(config):
                self._version = _version(study, config.compute.vllm.python, key)
            else:
                self._version, _ = find_vllm(python)
            self.students = bool(self._version)

    def __enter__(self) -> ServedModels:
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
        """Have the servers of ``roles`` up, leave those to ``keep`` as they are, end all others.

        Args:
            roles: What jobs may ask now.
            keep: What they may ask later.
            say: Called with what is waited for, in words; at last with None.
            meanwhile: Called several times a second; what it raises ends the wait.
            jobs: Number of these jobs, if it is known.

        Raises:
            ServerError: One cannot be started.
        """
        asked_for = "student" in keep or students_server_key(self._study.config) is not None
        self._tries_students = not asked_for
        try:
            for role in ROLES:
                if role not in (*roles, *keep) and any(map(_runs, self._of(role))):
                    # Its memory is for what follows.
                    say(f"ending the {role}'s server")
                    for server in self._of(role):
                        server.end()
            self._add_students(roles)
            wanted = [server for role in ROLES if role in roles for server in self._of(role)]
            if waiting := [server for server in wanted if server.address is None]:
                names = dict.fromkeys(f"the {server.launch.role}'s server" for server in waiting)
                say(f"starting {' and '.join(names)}")
                for server in waiting:
                    server.start()
            while any(server.address is None for server in waiting if server in self._all()):
                self.check()
                meanwhile()
                time.sleep(LOOK_SECONDS)
            meanwhile()
        finally:
            say(None)

    def end(self) -> None:
        """End all servers."""
        for role in ROLES:
            for server in self._of(role):
                server.end()

    def place(self, resources: Resources) -> Resources:
        """Return a job's place with the servers that it may ask."""
        student = self._students.get(resources.device)
        return resources.model_copy(
            update={
                "served_teacher": self._teacher.address if self._teacher else None,
                "served_student": student.address if student else None,
                "served_memory": self._memory_on(resources.device),
            }
        )

    def _memory_on(self, device: str) -> float:
        """Return the share of a GPU's memory that servers take, as long as they run."""
        if not device.startswith("cuda"):
            return 0.0
        teacher = self._teacher if self._teacher and _runs(self._teacher) else None
        return memory_of_servers(
            self._study.config,
            teacher=teacher is not None and device in teacher.launch.devices,
            student=device in self._students,
        )

    def check(self) -> None:
        """Raise if a server cannot be started, or does not stay up.

        Those of students' weights that are up for a test only are left out instead.

        Raises:
            ServerError: Names the reason, and what to try.
        """
        for server in self._of("teacher"):
            server.check()
        try:
            for server in self._of("student"):
                server.check()
        except ServerError as error:
            if not self._tries_students:
                raise
            self._leave_out_students(str(error).splitlines()[0])

    def messages(self) -> list[str]:
        """Return what happened to the servers since the last call, a line each."""
        found = [line for server in self._all() for line in server.messages()] + self._notes
        self._notes = []
        return found

    def _of(self, role: Role) -> list[ModelServer]:
        if role == "student":
            return list(self._students.values())
        return [] if self._teacher is None else [self._teacher]

    def _all(self) -> list[ModelServer]:
        return [server for role in ROLES for server in self._of(role)]

    def _add_students(self, roles: Collection[Role]) -> None:
        if "student" in roles and self.students:
            for device in self._devices:
                if device not in self._students:
                    self._students[device] = self._student_server(device)

    def _leave_out_students(self, reason: str) -> None:
        self._notes += [line for server in self._of("student") for line in server.messages()]
        self._notes.append(f"rollouts.engine: auto does without vllm. {reason}")
        for server in self._of("student"):
            server.end()
        self._students.clear()
        self.students = False

    def _student_server(self, device: str) -> ModelServer:
        launch = student_order(self._study, self._paths).launch(self._version, (device,))
        return ModelServer(launch, self._paths.server(f"student@{device}"), self._patience)


def _runs(server: ModelServer) -> bool:
    return server.state not in ("idle", "ended")


def _teacher_server(
    study: LoadedStudy, paths: StudyPaths, manifest: StudyManifest, patience: Patience
) -> ModelServer | None:
    """Return the teacher's server, not started yet; None if the study asks for none.

    Raises:
        ConfigError: vLLM is not installed, or cannot serve the teacher from here.
    """
    server = started_server(study.config)
    if server is None:
        return None
    order = teacher_order(study, manifest)
    key = vllm_key(server)
    version = _version(study, server.python, key)
    launch = order.launch(version, server_devices(study, server))
    return ModelServer(launch, paths.server("teacher"), patience)


def _version(study: LoadedStudy, python: str | None, key: KeyPath) -> str:
    """Return the version of vLLM; ``key`` is blamed if there is none.

    Raises:
        ConfigError: It is not installed.
    """
    version, problem = find_vllm(server_python(StartedServer(start="vllm", python=python)))
    if problem:
        raise ConfigError([study.file.problem(key, problem)])
    return version
