"""The teacher's server, where the study asks sweeper to start one: its devices and its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sweeper.config.builtin import PACKED_MODELS, model_directory
from sweeper.config.loading import LoadedStudy
from sweeper.config.started_server import StartedServer
from sweeper.execution.device_sharing import usable_devices
from sweeper.execution.devices import find_devices
from sweeper.foundation.cache import directory_hash
from sweeper.foundation.errors import ConfigError, Problem
from sweeper.records.layout import StudyPaths
from sweeper.serving.launch import find_vllm, gpu_share, server_python, vllm_launch
from sweeper.serving.model_server import ModelServer
from sweeper.study.manifest import StudyManifest, model_folders

_KEY = ("teacher", "server")


class DeviceSplit(NamedTuple):
    """How the devices of this machine are shared out between a server and trials."""

    server: tuple[str, ...]
    trials: tuple[str, ...]
    shared: bool
    """True if trials use a GPU of the server's."""
    share: float
    """Share of each GPU of the trials that the server takes."""


def started_server(study: LoadedStudy) -> StartedServer | None:
    """Return the keys of the server that sweeper starts; None if the study asks for none."""
    server = study.config.teacher.server
    return server if isinstance(server, StartedServer) else None


def split_devices(study: LoadedStudy) -> DeviceSplit | None:
    """Return the devices of the teacher's server and of trials; None without a server.

    Raises:
        ConfigError: The machine has fewer GPUs than the server asks for.
        SweeperError: The machine does not have what ``compute`` asks for.
    """
    server = started_server(study)
    if server is None:
        return None
    gpus = [device for device in find_devices("auto") if device.startswith("cuda")]
    wanted = min(1, len(gpus)) if server.gpus is None else server.gpus
    if wanted > len(gpus):
        message = f"expected at most {len(gpus)}, the GPUs of this machine, found {wanted}"
        raise ConfigError([study.file.problem((*_KEY, "gpus"), message)])
    own = tuple(gpus[len(gpus) - wanted :]) or ("cpu",)
    devices = usable_devices(study.config.compute)
    trials = tuple(device for device in devices if device not in own) or tuple(devices)
    shared = bool({*own} & {*trials} - {"cpu"})
    return DeviceSplit(own, trials, shared, gpu_share(server, shared=True) if shared else 0.0)


def server_problems(study: LoadedStudy) -> Sequence[Problem]:
    """Return why the teacher's server could not be started on this machine; nothing is started."""
    try:
        if server := started_server(study):
            split_devices(study)
            _version(study, server)
    except ConfigError as error:
        return error.problems
    return ()


def make_teacher_server(
    study: LoadedStudy, paths: StudyPaths, manifest: StudyManifest
) -> ModelServer | None:
    """Return the teacher's server, not started yet; None if the study asks for none.

    Raises:
        ConfigError: vLLM is not installed, or cannot serve the teacher from here.
    """
    server, split = started_server(study), split_devices(study)
    if server is None or split is None:
        return None
    version = _version(study, server)
    source, content = _source(study, manifest)
    launch = vllm_launch(
        "teacher",
        study.config.teacher,
        server,
        source=source,
        content=content,
        version=version,
        devices=split.server,
        shared=split.shared,
    )
    return ModelServer(launch, paths.server("teacher"))


def _version(study: LoadedStudy, server: StartedServer) -> str:
    """Return the version of vLLM.

    Raises:
        ConfigError: It is not installed.
    """
    version, problem = find_vllm(server_python(server))
    if problem:
        key = "start" if server.python is None else "python"
        raise ConfigError([study.file.problem((*_KEY, key), problem)])
    return version


def _source(study: LoadedStudy, manifest: StudyManifest) -> tuple[str, str]:
    """Return what vLLM reads the teacher from, and a hash of it."""
    teacher = study.config.teacher
    name = teacher.model.removeprefix("builtin/")
    if name in PACKED_MODELS:
        message = f"expected a folder or a hub id next to server, found {teacher.model!r}"
        raise ConfigError([study.file.problem(("teacher", "model"), message)])
    if name != teacher.model:
        folder = model_directory(name)
        return str(folder), directory_hash(folder)
    if local := model_folders(study).get(teacher.model):
        return local, manifest.files[f"teacher {teacher.model}"]
    return teacher.model, f"{teacher.model}@{teacher.revision or ''}"
