"""MLflow's own web pages for a study: the command that serves them, and where to look."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from urllib.parse import quote

from sweeper.foundation.databases import has_password, is_server

_HOST = "127.0.0.1"


def ui_command(uri: str, artifact_location: str | None, port: int) -> list[str]:
    """Return the command that serves ``uri`` at ``http://127.0.0.1:<port>``, to this machine only.

    Run it with ``ui_environment(uri)`` added to the environment.

    Args:
        uri: The tracking URI, of a database; a server serves its own pages.
        artifact_location: The directory or URI that holds the study's files.
        port: A free TCP port.

    Raises:
        ValueError: ``uri`` is a server's.
    """
    if is_server(uri):
        raise ValueError("A tracking URI that is a server needs no other one.")
    # One worker: each is a Python process with MLflow in it, and one reader needs no more.
    command = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port)]
    command += ["--workers", "1"]
    if not has_password(uri):
        command += ["--backend-store-uri", uri]
    if artifact_location is not None:
        # An experiment remembers its own location, an absolute one, and its files are read from
        # there. This is for whatever else is recorded through the server: without it, that would
        # go to ./mlartifacts.
        if "://" not in artifact_location:
            artifact_location = Path(artifact_location).absolute().as_uri()
        command += ["--artifacts-destination", artifact_location]
    return command


def ui_environment(uri: str) -> dict[str, str]:
    """Return the environment variables that ``ui_command`` needs.

    They hold a URI with a password, because every user of a machine can read arguments. The server
    runs no jobs of its own and sends no usage statistics.
    """
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # What lies in the working directory is not imported.
        "PYTHONSAFEPATH": "1",
    }
    if has_password(uri):
        environment["MLFLOW_BACKEND_STORE_URI"] = uri
    return environment


def is_free(port: int) -> bool:
    """Return whether nothing listens on ``port`` of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def experiment_url(uri: str, experiment: str, study: str, port: int) -> str:
    """Return the page that compares the trials of ``study``, or without an experiment the start.

    Imports MLflow and opens the database, which takes about 2 s.

    Args:
        uri: The tracking URI. A server's own pages are used, for others those on ``port``.
        experiment: The experiment's name.
        study: The study's name.
        port: The port given to ``ui_command``.
    """
    from sweeper.tracking.mlflow_store import find_experiment

    base = uri.rstrip("/") if is_server(uri) else f"http://{_HOST}:{port}"
    experiment_id = find_experiment(uri, experiment)
    if experiment_id is None:
        return f"{base}/"
    trials = f"tags.\"sweeper.study\" = '{study}' and tags.\"sweeper.kind\" = 'trial'"
    # A flat list, best first: selecting all of it selects trials, not the arms above them.
    order = quote("metrics.`score/selection`")
    query = f"searchFilter={quote(trials)}&orderByKey={order}&orderByAsc=false"
    return f"{base}/#/experiments/{experiment_id}/runs?{query}"
