"""The teacher's server, where the study asks sweeper to start one: its devices, files and start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sweeper.config.builtin import PACKED_MODELS, model_directory
from sweeper.config.judgement import largest_top_k
from sweeper.config.loading import LoadedStudy
from sweeper.config.started_server import StartedServer
from sweeper.execution.devices import find_devices
from sweeper.foundation.cache import directory_hash
from sweeper.foundation.errors import ConfigError, Problem
from sweeper.records import ServedModel
from sweeper.records.layout import StudyPaths
from sweeper.serving.launch import find_vllm, server_python, vllm_launch
from sweeper.serving.model_server import ModelServer
from sweeper.study.manifest import StudyManifest, model_folders

_KEY = ("teacher", "server")
_LOOK_SECONDS = 0.25


def started_server(study: LoadedStudy) -> StartedServer | None:
    """Return the keys of the server that sweeper starts; None if the study asks for none."""
    server = study.config.teacher.server
    return server if isinstance(server, StartedServer) else None


def server_devices(study: LoadedStudy, server: StartedServer) -> tuple[str, ...]:
    """Return the devices of the teacher's server: the machine's last GPUs, or the CPU.

    Nothing else of the study runs on them while it is up.

    Raises:
        ConfigError: The machine has fewer GPUs than the server asks for.
    """
    gpus = [device for device in find_devices("auto") if device.startswith("cuda")]
    wanted = min(1, len(gpus)) if server.gpus is None else server.gpus
    if wanted > len(gpus):
        message = f"expected at most {len(gpus)}, the GPUs of this machine, found {wanted}"
        raise ConfigError([study.file.problem((*_KEY, "gpus"), message)])
    return tuple(gpus[len(gpus) - wanted :]) or ("cpu",)


def server_problems(study: LoadedStudy) -> Sequence[Problem]:
    """Return why the teacher's server could not be started on this machine; nothing is started."""
    try:
        if server := started_server(study):
            server_devices(study, server)
            _check_model(study)
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
    server = started_server(study)
    if server is None:
        return None
    _check_model(study)
    version = _version(study, server)
    source, content = _source(study, manifest)
    launch = vllm_launch(
        "teacher",
        study.config.teacher,
        server,
        source=source,
        content=content,
        version=version,
        devices=server_devices(study, server),
        max_logprobs=top_k.k if (top_k := largest_top_k(study.config)) else None,
    )
    return ModelServer(launch, paths.server("teacher"))


def bring_up(server: ModelServer, meanwhile: Callable[[], None]) -> ServedModel:
    """Start the server, unless it runs, and return its address once it answers.

    ``meanwhile`` is called several times a second; what it raises ends the wait.

    Raises:
        ServerError: It cannot be started.
    """
    server.start()
    while server.address is None:
        server.check()
        meanwhile()
        time.sleep(_LOOK_SECONDS)
    meanwhile()
    return server.address


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


def _check_model(study: LoadedStudy) -> None:
    """Check that vLLM can read the teacher.

    Raises:
        ConfigError: It lies packed in a Python package.
    """
    model = study.config.teacher.model
    if model.removeprefix("builtin/") in PACKED_MODELS:
        message = f"expected a folder or a hub id next to server, found {model!r}"
        raise ConfigError([study.file.problem(("teacher", "model"), message)])


def _source(study: LoadedStudy, manifest: StudyManifest) -> tuple[str, str]:
    """Return what vLLM reads the teacher from, and a hash of it."""
    teacher = study.config.teacher
    name = teacher.model.removeprefix("builtin/")
    if name != teacher.model:
        folder = model_directory(name)
        return str(folder), directory_hash(folder)
    if local := model_folders(study).get(teacher.model):
        return local, manifest.files[f"teacher {teacher.model}"]
    return teacher.model, f"{teacher.model}@{teacher.revision or ''}"
