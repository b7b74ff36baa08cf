"""What the servers of a study serve, wherever they run."""

from __future__ import annotations

from pathlib import Path

from sweeper.config.base import KeyPath
from sweeper.config.builtin import MODELS, PACKED_MODELS, model_directory
from sweeper.config.judgement import largest_top_k
from sweeper.config.loading import LoadedStudy
from sweeper.config.models import ModelConfig
from sweeper.config.started_server import StartedServer
from sweeper.config.study import StudyConfig
from sweeper.foundation.cache import directory_hash, is_whole
from sweeper.foundation.errors import ConfigError, SweeperError
from sweeper.records.layout import StudyPaths
from sweeper.records.outcome_files import read_outcome
from sweeper.serving.order import ServerOrder
from sweeper.study.manifest import StudyManifest, model_folders

TEACHER_KEY = ("teacher", "server")


def started_server(config: StudyConfig) -> StartedServer | None:
    """Return the keys of the teacher's server that sweeper starts; None if it starts none."""
    server = config.teacher.server
    return server if isinstance(server, StartedServer) else None


def memory_of_servers(config: StudyConfig, *, teacher: bool = False, student: bool) -> float:
    """Return the share of a GPU's memory that the servers on it take.

    Args:
        config: The study.
        teacher: True if the teacher's server runs on it.
        student: True if one of students' weights does.
    """
    server, taken = started_server(config), 0.0
    if teacher and server is not None:
        taken += server.gpu_memory
    if student:
        taken += config.compute.vllm.gpu_memory
    return taken


def vllm_key(server: StartedServer) -> KeyPath:
    """Return the key of the teacher's server to blame where vLLM is missing."""
    return (*TEACHER_KEY, "start" if server.python is None else "python")


def teacher_order(study: LoadedStudy, manifest: StudyManifest) -> ServerOrder:
    """Return what the teacher's server serves.

    Raises:
        ConfigError: vLLM cannot read the teacher.
    """
    server, teacher = started_server(study.config), study.config.teacher
    assert server is not None
    check_teacher(study)
    source, content = _source(study, manifest)
    top_k = largest_top_k(study.config)
    return ServerOrder(
        "teacher",
        teacher,
        server,
        source=source,
        content=content,
        max_logprobs=top_k.k if top_k else None,
    )


def student_order(study: LoadedStudy, paths: StudyPaths) -> ServerOrder:
    """Return what servers of students' weights serve at first: the starting student.

    Raises:
        SweeperError: Its weights are not in the cache.
    """
    outcome = read_outcome(paths.preparation("start"))
    written = outcome.start_weights if outcome else None
    if written is None or not is_whole(Path(written)):
        raise SweeperError(
            "The starting student's weights are not in the cache any more. `sweeper run` writes"
            " them again."
        )
    config = study.config
    model = ModelConfig(
        model=config.student.model,
        dtype=config.evaluation.dtype or config.scoring_dtype(),
        trust_remote_code=config.student.trust_remote_code,
    )
    return ServerOrder("student", model, config.compute.vllm, source=written, content=written)


def check_teacher(study: LoadedStudy) -> None:
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
    if name != teacher.model and name in MODELS:
        return teacher.model, directory_hash(model_directory(name))
    if local := model_folders(study).get(teacher.model):
        return local, manifest.files[f"teacher {teacher.model}"]
    return teacher.model, f"{teacher.model}@{teacher.revision or ''}"
