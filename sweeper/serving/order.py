"""A server that a study needs, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.config.builtin import MODELS, model_directory
from sweeper.config.models import ModelConfig
from sweeper.config.started_server import StartedServer, StudentServer
from sweeper.serving.launch import Launch, vllm_launch


@dataclass(frozen=True)
class ServerOrder:
    """A server that a study needs; each machine makes a launch of it."""

    role: str
    """Role of the model in the study: ``teacher`` or ``student``."""
    model: ModelConfig
    """Model to serve, with the type to compute in."""
    server: StartedServer | StudentServer
    """Keys of the study file."""
    source: str
    """Folder or hub id of the model; ``builtin/NAME`` if it ships with the package."""
    content: str
    """Hash of the folder's files; of a model on a hub, its id and revision."""
    max_logprobs: int | None = None
    """Most tokens of a position that requests ask for; None: vLLM's own limit."""

    def launch(self, version: str, devices: tuple[str, ...]) -> Launch:
        """Return the launch on this machine.

        Args:
            version: Version of vLLM here.
            devices: Devices of the server, by the names that torch has for them here.
        """
        shipped = self.source.removeprefix("builtin/")
        found = shipped != self.source and shipped in MODELS
        return vllm_launch(
            self.role,
            self.model,
            self.server,
            source=str(model_directory(shipped)) if found else self.source,
            content=self.content,
            version=version,
            devices=devices,
            max_logprobs=self.max_logprobs,
        )
