"""The servers that a study starts: what each is, on which devices, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sweeper.analysis.findings import Finding
from sweeper.config.loading import LoadedStudy
from sweeper.config.served_students import (
    MAX_LENGTH,
    longest_rollout,
    may_serve_students,
    students_server_key,
)
from sweeper.config.started_server import VllmServer
from sweeper.execution.device_sharing import DeviceMemory, DeviceSlots
from sweeper.records import DataSummary
from sweeper.reporting.text.terminal_escape import visible
from sweeper.serving.launch import CPU_CACHE_BYTES
from sweeper.study.served_models import Role, roles_of_trials, server_devices
from sweeper.study.served_orders import started_server

GIB = 2**30
LIBRARIES = 1.5 * GIB
"""Bytes of a server's processes on a CPU, without weights, keys and values; measured with
vLLM 0.32: three processes, 2.45 GiB (Pss) with 1 GiB of keys and values and a tiny model."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class PlannedServer:
    """A server that a study starts.

    Attributes:
        role: What it has: the teacher, or the weights of the student that asks.
        model: Model, as the study file names it.
        devices: Devices of all servers of this role.
        dtype: Precision that it computes in, as the study file has it.
        keys: Keys of the study file that it is started with.
        share: Share of each GPU's memory that it takes.
        with_trials: True if trials ask it, so that it is up next to them.
        certain: False if it is only tried (``rollouts.engine: auto``).
    """

    role: Role
    model: str
    devices: tuple[str, ...]
    dtype: str
    keys: VllmServer
    share: float
    with_trials: bool
    certain: bool = True


def planned_servers(study: LoadedStudy, devices: Sequence[str]) -> list[PlannedServer]:
    """Return the servers that a study starts on this machine.

    Args:
        study: The study.
        devices: Devices of its trials.

    Raises:
        ConfigError: The teacher's server has no devices here.
        SweeperError: The machine does not have what ``compute`` asks for.
    """
    config = study.config
    if config.compute.executor != "local":
        return []
    engine = config.rollouts.engine
    asked = roles_of_trials(config, "sweeper" if engine == "auto" else engine)
    planned = []
    if server := started_server(config):
        planned.append(
            PlannedServer(
                "teacher",
                config.teacher.model,
                server_devices(study, server),
                config.teacher.dtype,
                server,
                server.gpu_memory,
                "teacher" in asked,
            )
        )
    if may_serve_students(config):
        planned.append(
            PlannedServer(
                "student",
                config.student.model,
                DeviceSlots.of(config.compute, devices).used(),
                config.scoring_dtype(),
                config.compute.vllm,
                config.compute.vllm.gpu_memory,
                "student" in asked,
                students_server_key(config) is not None,
            )
        )
    return planned


def served_finding(servers: Sequence[PlannedServer]) -> Finding | None:
    """Return one row with the servers that a study starts; None if it starts none."""
    if not servers:
        return None
    detail = "; ".join(map(_described, servers))
    return Finding(state="ok", what="served models", detail=visible(f"vLLM serves {detail}"))


def length_findings(study: LoadedStudy, data: DataSummary | None) -> Iterator[Finding]:
    """Yield which texts of the data and the suites the students' servers could not read."""
    config, what = study.config, "served models"
    limit = config.compute.vllm.max_length
    if data is None or limit is None or students_server_key(config) is None:
        return
    sampled, _ = longest_rollout(config)
    if sampled and data.lengths is not None:
        prompt = data.lengths.prompts.longest
        if prompt + sampled > limit:
            message = (
                f"expected at least {prompt + sampled}, for the longest prompt of {prompt} tokens"
                f" with its answer (max_new_tokens: {sampled}), found {limit}"
            )
            problem = study.file.problem(MAX_LENGTH, message)
            yield Finding(state="error", what=what, detail=message, place=problem.place)
    if config.evaluation.engine == "vllm":
        tokens, task = max(((one.tokens, one.task) for one in data.scored), default=(0, ""))
        if tokens > limit:
            detail = (
                f"compute.vllm.max_length: {limit} may be too few for the suites: texts of the task"
                f" {task} with their answers have up to about {tokens} tokens"
            )
            advice = f"Write {tokens}, or fewer max_gen_toks in the task."
            yield Finding(state="warning", what=what, detail=visible(detail), advice=advice)


def beside_servers(
    places: Sequence[DeviceMemory],
    servers: Sequence[PlannedServer],
    devices: Sequence[str],
    student: int | None,
) -> list[DeviceMemory]:
    """Return the memory of trials without that of servers which are up meanwhile.

    Args:
        places: Memory of trials without servers.
        servers: Servers of the study.
        devices: Devices of its trials.
        student: Parameters of the student; None if they are not known.
    """
    up = [server for server in servers if server.with_trials and {*server.devices} & {*devices}]
    return [
        place.beside({_named(server, place): _bytes(server, place, student) for server in up})
        for place in places
    ]


def _named(server: PlannedServer, place: DeviceMemory) -> str:
    # A server has no shapes of the teacher, as nothing loads it here.
    unknown = server.role == "teacher" and place.kind == "cpu"
    return f"the {server.role}'s server{', without its weights' * unknown}"


def _bytes(server: PlannedServer, place: DeviceMemory, student: int | None) -> float:
    """Return what a server takes of a trial's device."""
    if place.kind == "cuda":
        return server.share * place.whole
    options = {name.replace("-", "_"): value for name, value in server.keys.options.items()}
    cache = options.get("kv_cache_memory_bytes", CPU_CACHE_BYTES)
    held = float(cache) if isinstance(cache, int | float) else float(CPU_CACHE_BYTES)
    if server.role == "student" and student is not None:
        held += student * _BYTES.get(server.dtype, 4)
    return LIBRARIES + held


def _described(server: PlannedServer) -> str:
    many = len(server.devices) > 1
    where = ", ".join(server.devices)
    if server.role == "teacher":
        text = f"the teacher {server.model} on {where}"
    else:
        text = f"weights of students like {server.model} on {where}"
        text += ", a server on each" * many
    if server.devices != ("cpu",):
        whose = "each one's" if many else "its"
        text += f", with {server.share:g} of {whose} memory"
    text += ", while trials run" if server.with_trials else ", while the study is prepared"
    return text if server.certain else f"{text}, and next to them if it samples fastest"
