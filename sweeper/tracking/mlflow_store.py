"""The runs of an MLflow experiment, in a local database or on a server."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sweeper.foundation.database_retry import DatabaseAway, Retry, absence
from sweeper.foundation.databases import (
    address,
    sqlite_path,
    sqlite_url,
    with_driver,
)
from sweeper.foundation.errors import SweeperError
from sweeper.foundation.places import database_error, place_error
from sweeper.foundation.secrets import redact
from sweeper.tracking.mapping import Dataset
from sweeper.tracking.points import MetricPoint
from sweeper.tracking.probe import probe
from sweeper.tracking.sqlite_file import make_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

_T = TypeVar("_T")

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_MOST_RUNS = 1000
"""Runs that MLflow finds at a time."""
_MOST_POINTS = 800
"""Metrics in one batch: MLflow takes 1,000 entities, 100 parameters and 100 tags among them."""
_MOST_TEXTS = 100
_MARKS = ("study", "identity", "kind", "arm", "trial")
"""The tags, without ``sweeper.``, that tell a run from all others."""


@dataclass
class Run:
    """A run as its one writer keeps it, equal to what MLflow holds."""

    id: str
    status: RunStatus
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)


class MlflowStore:
    """The runs of one MLflow experiment.

    One object in one process writes the runs of a study, from one thread; others may read at the
    same time. It sets no active run and no global tracking URI. While MLflow does not answer, every
    call is repeated: each is safe to repeat.

    Importing MLflow takes 1.5 s and waits for ``connect`` or ``open``. Unless the environment says
    otherwise, MLflow then sends no usage statistics, and prints no links between our own output.

    Args:
        uri: MLflow's tracking URI: ``sqlite:///…``, another database, or a server.
        experiment: The experiment's name; made when it does not exist.
        artifact_location: A directory or URI for the files of a new experiment. None leaves it to
            the server; with a database and no server it would be the working directory.
        page_size: Runs to look up at a time.
        retry: Waits for a database or a server that does not answer.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        artifact_location: str | None,
        page_size: int = _MOST_RUNS,
        retry: Retry | None = None,
    ) -> None:
        self._uri = uri
        self._experiment = experiment
        self._artifact_location = artifact_location
        self._page_size = page_size
        self._retry = retry or Retry()
        self._client: MlflowClient | None = None
        self._experiment_id = ""

    def connect(self) -> None:
        """Reach MLflow, and record nothing there; make a database's tables when there are none.

        Raises:
            SweeperError: MLflow cannot be reached or used.
        """

        def connected() -> None:
            self._client = connect(self._uri)

        with _explained(self._uri):
            self._retried(connected)

    def open(self) -> None:
        """Connect, and find or make the experiment; before any call below."""

        def opened() -> None:
            client = self._client or connect(self._uri)
            experiment = client.get_experiment_by_name(self._experiment)
            if experiment is not None and experiment.lifecycle_stage == "deleted":
                raise SweeperError(
                    f"The MLflow experiment {self._experiment!r} is deleted. Restore it with"
                    f" `mlflow experiments restore -x {experiment.experiment_id}`, or name another"
                    " one under tracking.experiment."
                )
            self._experiment_id = experiment.experiment_id if experiment else self._create(client)
            self._client = client

        with _explained(self._uri):
            self._retried(opened)

    def find(self, wanted: Mapping[str, str], *, running: bool = False) -> Iterable[Run]:
        """Return the runs with all the tags ``wanted``, oldest first; or only those that run."""
        with _explained(self._uri):
            return self._retried(
                lambda: [_run_of(run) for run in self._find(wanted, running=running)]
            )

    def create(self, tags: Mapping[str, str], start: int) -> Run:
        """Make a running run with ``tags``, all at once; ``start`` in ms since the epoch."""
        names = [f"sweeper.{name}" for name in _MARKS]
        marks = {name: tags[name] for name in names if name in tags}
        tries = 0

        def made() -> MlflowRun:
            nonlocal tries
            tries += 1
            # An earlier try may have been stored, and only its answer lost.
            earlier = next(self._find(marks), None) if tries > 1 else None
            return earlier or self._connected.create_run(
                self._experiment_id, start_time=start, tags=dict(tags)
            )

        return _run_of(self._retried(made))

    def write(
        self,
        run: Run,
        points: Sequence[MetricPoint] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add what is not there; set tags. A point that is already there stays one point."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(*point[:2], point.timestamp, point.step) for point in points]
        new_params = [Param(key, value) for key, value in (params or {}).items()]
        new_tags = [RunTag(key, value) for key, value in (tags or {}).items()]
        while metrics or new_params or new_tags:
            batch = metrics[:_MOST_POINTS], new_params[:_MOST_TEXTS], new_tags[:_MOST_TEXTS]
            self._retried(partial(self._connected.log_batch, run.id, *batch))
            del metrics[:_MOST_POINTS], new_params[:_MOST_TEXTS], new_tags[:_MOST_TEXTS]

    def remove_tags(self, run: Run, names: Iterable[str]) -> None:
        """Remove tags that the run has."""

        def remove() -> None:
            there = self._connected.get_run(run.id).data.tags
            for name in names:
                if name in there:
                    self._connected.delete_tag(run.id, name)

        self._retried(remove)

    def add_dataset(self, run: Run, dataset: Dataset) -> None:
        """Record a data set as the run's input, once."""
        from mlflow.entities import Dataset as MlflowDataset
        from mlflow.entities import DatasetInput, InputTag

        entity = MlflowDataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type=dataset.source_type,
            source=dataset.source,
            profile=dataset.profile,
        )
        tag = InputTag("mlflow.data.context", "training")
        inputs = [DatasetInput(entity, [tag])]
        self._retried(lambda: self._connected.log_inputs(run.id, inputs))

    def add_file(self, run: Run, path: Path, folder: str | None = None) -> None:
        """Store a file's content among the run's artifacts, over an older one of its name."""
        self._retried(lambda: self._connected.log_artifact(run.id, str(path), folder))

    def add_text(self, run: Run, name: str, text: str) -> None:
        """Store ``text`` as the artifact ``name``, over an older one."""
        self._retried(lambda: self._connected.log_text(run.id, text, name))

    def set_status(self, run: Run, status: RunStatus, end: int | None) -> None:
        """Set the status; ``end`` in ms since the epoch, None for a run that continues."""
        if end is None:
            self._retried(lambda: self._connected.update_run(run.id, status))
        else:
            self._retried(lambda: self._connected.set_terminated(run.id, status, end))

    def _retried(self, call: Callable[[], _T]) -> _T:
        def translated() -> _T:
            try:
                with _quiet():
                    return call()
            except Exception as error:
                # Before the first connection, silence more likely means a wrong address.
                if unusable := database_error(error, self._uri):
                    raise unusable from None
                reason = absence(error, answered=self._client is not None)
                if reason is None:
                    raise
                raise DatabaseAway(f"MLflow's store {address(self._uri)}", redact(reason)) from None

        return self._retry(translated)

    @property
    def _connected(self) -> MlflowClient:
        if self._client is None:
            raise RuntimeError("open must be the first call.")
        return self._client

    def _create(self, client: MlflowClient) -> str:
        location = self._artifact_location
        if location is not None and "://" not in location:
            location = Path(location).absolute().as_uri()
        # The kind decides which views MLflow's pages show; without it they ask.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(self._experiment, location, tags))

    def _find(self, wanted: Mapping[str, str], *, running: bool = False) -> Iterator[MlflowRun]:
        """Yield the runs with all the tags ``wanted``, oldest first, from all pages."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items())
        query += " and attributes.status = 'RUNNING'" if running else ""
        token: str | None = None
        while True:
            page = self._connected.search_runs(
                [self._experiment_id],
                query,
                max_results=self._page_size,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return


def find_experiment(uri: str, name: str) -> str | None:
    """Return the id of the experiment ``name``, or None."""
    with _explained(uri):
        experiment = connect(uri).get_experiment_by_name(name)
    return None if experiment is None else str(experiment.experiment_id)


def reach_store(uri: str) -> None:
    """Ask whether a server or a database answers; leave it as it is.

    Raises:
        SweeperError: It does not.
    """
    with _explained(uri), _quiet():
        probe(with_driver(uri))


def connect(uri: str) -> MlflowClient:
    """Return a client for ``uri``; make a database's tables when there are none.

    Raises:
        Exception: Nothing answers at ``uri``.
    """
    probe(uri)
    # Before MLflow is imported, which is when it reads them.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # We retry ourselves, and show it; MLflow would be silent for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with _quiet():
        from mlflow import MlflowClient

        if (path := sqlite_path(uri)) is not None:
            make_whole(path, _make_tables)
        client = MlflowClient(tracking_uri=uri)
        # Elsewhere, the tables are made at the first question.
        client.search_experiments(max_results=1)
    # It logs, with a traceback, what it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return client


def _make_tables(path: Path) -> None:
    from mlflow.store.db import utils as untyped

    utils: Any = untyped
    engine = utils.create_sqlalchemy_engine_with_retry(sqlite_url(path))
    try:
        utils._initialize_tables(engine)
    finally:
        engine.dispose()


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn whatever goes wrong at ``uri`` into a message without its password."""
    try:
        yield
    except SweeperError:
        raise
    except Exception as error:
        unusable = place_error(error) if isinstance(error, OSError) else database_error(error, uri)
        if unusable is not None:
            raise unusable from None
        # Without the cause, whose message may hold the password.
        message = redact(f"MLflow cannot use {address(uri)}: {type(error).__name__}: {error}")
        raise SweeperError(message) from None


def _run_of(run: MlflowRun) -> Run:
    status: RunStatus = run.info.status
    return Run(run.info.run_id, status, dict(run.data.tags), dict(run.data.params))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence MLflow's log of new tables and of what it raises, and a warning of SQLAlchemy.

    The warning, about MLflow's own code, would be an error where warnings are errors.
    """
    # MLflow's import, which comes after this, leaves the levels of these loggers alone.
    names = ("mlflow.store.db.utils", "psycopg", "alembic")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING if logger.name == "alembic" else logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The ``noload`` loader", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
