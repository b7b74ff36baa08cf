"""Records of served models: where jobs reach them, and how often they were started."""

from __future__ import annotations

from typing import Literal

from sweeper.records.base import SCHEMA_VERSION, Record


class ServedModel(Record):
    """Address of a model behind an OpenAI-compatible API."""

    url: str
    """Base URL, up to ``/v1``."""
    name: str
    """Name that requests give as ``model``."""
    key_file: str
    """File that holds the API key, which is in no record; only its owner can read it."""
    start_timeout: float = 1800.0
    """Seconds that a start of it may take: requests outlast its restarts."""
    weights: str | None = None
    """Name of the weights that requests are meant for, if the server changes its."""


ServerEnd = Literal["no longer needed", "died", "hung", "never answered", "found dead", "replaced"]


class ServerStart(Record):
    """One start of a server."""

    started: float
    """Start in seconds since the epoch."""
    program: str
    """Program with its version: ``vllm 0.32.0``."""
    devices: tuple[str, ...]
    """Devices that it had: ``("cuda:1",)``."""
    ready_after: float | None = None
    """Seconds until it answered; None: it never did."""
    last_seen: float
    """Time at which it last answered, or was ended."""
    adopted: int = 0
    """Number of later runs of the study that found it running and used it."""
    end: ServerEnd | None = None
    """Reason of its end; None while it runs."""

    @property
    def device_seconds(self) -> float:
        """Seconds from its start to its end on its devices, all of them together."""
        return (self.last_seen - self.started) * len(self.devices)


class ServerRecord(Record):
    """Every start of one model's server, over all runs of a study."""

    schema_version: int = SCHEMA_VERSION
    role: str
    """Role of the model in the study: ``teacher``."""
    model: str
    """Model, as the study file names it."""
    starts: tuple[ServerStart, ...] = ()

    @property
    def device_seconds(self) -> float:
        """Device-seconds of all starts."""
        return sum(start.device_seconds for start in self.starts)
