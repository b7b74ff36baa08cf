"""Where a served model answers: at an address of the study file, or where sweeper started it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sweeper.config.models import ModelConfig
from sweeper.config.remote_server import RemoteServer
from sweeper.config.started_server import StartedServer
from sweeper.foundation.errors import NoAnswerError
from sweeper.records import ServedModel
from sweeper.serving.client import TEACHER, ModelClient, read_key

_RESTARTS = 4
"""Starts that a request outlasts: the coordinator gives a server up after fewer."""
_BETWEEN = 300.0
"""Seconds that may pass until a fault is noticed, and between two starts."""
_TIMEOUT = 3600.0
"""Seconds until an answer has to be complete. A server that hangs is ended long before."""


class Reached(NamedTuple):
    """A server that can be asked now."""

    server: RemoteServer
    key: str | None
    """Its API key, if it needs one."""
    advice: str
    """What to check where it refuses a request."""
    blamed: tuple[str, ...] = TEACHER
    """Key of the study file that has the server's keys."""
    weights: str | None = None
    """Name of the weights that requests are meant for, if the server changes its."""
    log: Path | None = None
    """Log of a server that sweeper started."""

    def client(self, tell: Callable[[str], None]) -> ModelClient:
        """Return a client; ``tell`` is called with a line about each attempt that failed."""
        return ModelClient(
            self.server, self.key, tell, self.advice, self.blamed, self.weights, self.log
        )


def reach(model: ModelConfig, served: ServedModel | None) -> Reached:
    """Return the server to ask for a model's answers, with its key.

    Args:
        model: A model with a server.
        served: Where the server answers that sweeper started.

    Raises:
        BadInputError: The key of a server elsewhere is not set.
        NoAnswerError: The server that sweeper starts is not up.
    """
    if isinstance(model.server, RemoteServer):
        named = model.server.model_copy(update={"model": model.server.model or model.model})
        return Reached(named, read_key(named), "Check url, model and extra_body.")
    assert isinstance(model.server, StartedServer)
    if served is None:
        raise NoAnswerError(
            f"The answers of {model.model} are not in the cache any more, and its server runs only"
            " while the study is prepared. Run the same command again: it prepares the study anew,"
            " and resumes."
        )
    server = patient_server(served, model.server.concurrency)
    advice = "Check max_length and options; its log may say more."
    return Reached(server, read_key_file(served), advice, log=log_of(served))


def patient_server(served: ServedModel, concurrency: int) -> RemoteServer:
    """Return a server that sweeper started as one to ask; its requests outlast restarts.

    Args:
        served: Where it answers.
        concurrency: Requests at a time.
    """
    return RemoteServer(
        url=served.url,
        api="vllm",
        model=served.name,
        concurrency=concurrency,
        timeout=_TIMEOUT,
        retry_for=_RESTARTS * served.start_timeout + _BETWEEN,
    )


def log_of(served: ServedModel) -> Path:
    """Return the log of a server that sweeper started."""
    return Path(served.key_file).with_name("log.txt")


def read_key_file(served: ServedModel) -> str:
    """Return the API key of a server that sweeper started.

    Raises:
        NoAnswerError: It has ended.
    """
    try:
        return Path(served.key_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        message = f"The server {served.name} has ended: its key cannot be read"
        raise NoAnswerError(f"{message} ({error.strerror}: {served.key_file}).") from None
