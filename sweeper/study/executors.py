"""The executor that a study asks for: local processes, or Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sweeper.config.compute import ComputeConfig
from sweeper.config.yaml_file import YamlFile
from sweeper.execution.executor import Executor
from sweeper.execution.local import LocalExecutor
from sweeper.foundation.errors import ConfigError
from sweeper.records.layout import StudyPaths


def make_executor(
    compute: ComputeConfig,
    paths: StudyPaths,
    cache: Path,
    inputs: Sequence[Path],
    file: YamlFile,
    devices: Sequence[str] | None = None,
) -> Executor:
    """Return the executor that the study asks for, not entered yet.

    Args:
        compute: Resources that the study asks for.
        paths: Files of the study.
        cache: The content-addressed cache.
        inputs: Files and folders that jobs read.
        file: The study file, for messages.
        devices: The devices of trials, in place of all that are found.

    Raises:
        ConfigError: The study asks for Ray, which is not installed.
        SweeperError: The machine lacks what the study asks for.
    """
    if compute.executor == "local":
        return LocalExecutor(compute, devices)
    try:
        from sweeper.execution.ray_cluster import RayExecutor
    except ImportError as error:
        if error.name != "ray":
            raise
        message = "expected Ray to be installed: pip install 'sweeper[ray]'"
        raise ConfigError([file.problem(("compute", "executor"), message)]) from None
    return RayExecutor(compute, (paths.directory, cache), inputs)
