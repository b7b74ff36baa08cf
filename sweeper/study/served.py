"""The servers that a study asks for: on this machine, or on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import TracebackType
from typing import Protocol, cast

from sweeper.config.loading import LoadedStudy
from sweeper.execution.cluster import Cluster
from sweeper.execution.executor import Executor
from sweeper.records import Resources
from sweeper.records.layout import StudyPaths
from sweeper.serving.model_server import Patience
from sweeper.study.manifest import StudyManifest
from sweeper.study.served_models import Role, ServedModels
from sweeper.study.served_nodes import ServedOnNodes

_USUAL = Patience()


class Served(Protocol):
    """The servers of a study; a context manager that ends them. See ``ServedModels``."""

    students: bool
    """True if students' weights may be served."""

    def __enter__(self) -> Served:
        """Return the servers, none of them started yet."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all servers."""

    def serve(
        self,
        roles: Collection[Role],
        keep: Collection[Role],
        say: Callable[[str | None], None],
        meanwhile: Callable[[], None],
        jobs: int | None = None,
    ) -> None:
        """Have the servers of ``roles`` up, leave those to ``keep``, end all others."""

    def place(self, resources: Resources) -> Resources:
        """Return a job's place with the servers that it may ask."""

    def check(self) -> None:
        """Raise a ``ServerError`` if a server cannot be started, or does not stay up."""

    def messages(self) -> list[str]:
        """Return what happened to the servers since the last call, a line each."""


def make_served(
    study: LoadedStudy,
    paths: StudyPaths,
    manifest: StudyManifest,
    executor: Executor,
    patience: Patience = _USUAL,
) -> Served:
    """Return the servers of a study, none of them started yet.

    Args:
        study: The study.
        paths: Its files.
        manifest: Its manifest, with the hashes of its models.
        executor: Executor of its jobs, entered already.
        patience: How long servers are waited for.

    Raises:
        ConfigError: vLLM is not installed where jobs run, or cannot serve the models there.
    """
    if study.config.compute.executor == "local":
        return ServedModels(study, paths, manifest, executor.devices(), patience)
    return ServedOnNodes(study, paths, manifest, cast(Cluster, executor), patience)
