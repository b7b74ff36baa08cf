"""Which executor runs a study's jobs, and what of the study its machines must see."""

from __future__ import annotations

from pathlib import Path

from sweeper.config.loading import LoadedStudy
from sweeper.execution.executor import Executor
from sweeper.execution.local import LocalExecutor
from sweeper.foundation.errors import ConfigError
from sweeper.records.layout import StudyPaths
from sweeper.study.manifest import data_files


def make_executor(study: LoadedStudy, paths: StudyPaths, cache: Path) -> Executor:
    """The executor that the study asks for, not entered yet.

    Args:
        study: The checked study file.
        paths: Where the study is recorded.
        cache: The content-addressed cache.

    Raises:
        ConfigError: It asks for Ray, which is not installed.
        SweeperError: The machine does not have what it asks for.
    """
    compute = study.config.compute
    if compute.executor == "local":
        return LocalExecutor(compute)
    try:
        from sweeper.execution.ray_cluster import RayExecutor
    except ImportError as error:
        if error.name != "ray":
            raise
        message = "expected Ray to be installed: pip install 'sweeper[ray]'"
        raise ConfigError([study.file.problem(("compute", "executor"), message)]) from None
    return RayExecutor(compute, (paths.directory, cache), inputs(study))


def inputs(study: LoadedStudy) -> list[Path]:
    """The files and folders of this machine that the study's jobs read."""
    found = [Path(path) for path in data_files(study)]
    for suite in (study.selection, study.test):
        found += suite.task_directories if suite else []
    models = (study.config.teacher.model, study.config.student.model)
    found += [Path(model).absolute() for model in models if Path(model).is_dir()]
    return found
