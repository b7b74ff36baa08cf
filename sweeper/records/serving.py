"""Records of served models: where jobs reach them, and how often they were started."""

from __future__ import annotations

import operator
from typing import Literal

from pydantic import Field

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
    host: str = Field(default="", exclude_if=operator.not_)
    """Machine that it ran on; empty: that of all jobs."""
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


class ServerCost(Record):
    """Device-seconds of a server, without those in which a job of the study ran on the device."""

    device_seconds: float
    idle: float
    """Of these, the seconds in which no job ran that used it: its start, and waits for work."""
    unshared: float = 0.0
    """Device-seconds that no job pays for: all of them where none used it, else 0."""


class ServerRecord(Record):
    """Every start of one model's server, over all runs of a study."""

    schema_version: int = SCHEMA_VERSION
    role: str
    """Role of the model in the study: ``teacher``."""
    model: str
    """Model, as the study file names it."""
    starts: tuple[ServerStart, ...] = ()
    cost: ServerCost | None = Field(default=None, exclude_if=operator.not_)
    """Cost of all starts, in the record of a whole study."""

    @property
    def device_seconds(self) -> float:
        """Device-seconds of all starts, as they count in the study's cost where that is known."""
        if self.cost is not None:
            return self.cost.device_seconds
        return sum(start.device_seconds for start in self.starts)
