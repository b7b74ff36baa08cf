"""Servers of models in real processes, and what is left of them."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sweeper.config.models import ModelConfig
from sweeper.config.started_server import StartedServer
from sweeper.foundation.errors import ServerError
from sweeper.records.layout import ServerPaths
from sweeper.records.serving import ServerRecord, ServerStart
from sweeper.serving.http_checks import free_port
from sweeper.serving.launch import Launch, vllm_launch
from sweeper.serving.model_server import ModelServer, Patience
from sweeper.serving.start_log import read_server_record
from tests.support.tiny_studies import ROOT
from tests.support.waiting import wait_until

FAKE_VLLM = Path(__file__).resolve().parent / "fake_vllm"
QUICK = Patience(
    check_every=0.02, answer_within=0.5, hung_after=0.5, back_off=(0.0, 0.0, 0.0), grace=0.5
)


@dataclass
class FakeServers:
    """Servers from the package in vLLM's place, in a folder that says what they do."""

    folder: Path
    paths: ServerPaths = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.paths = ServerPaths(self.folder / "servers" / "teacher")

    def launch(self, model: str = "models/teacher", **keys: Any) -> Launch:
        return vllm_launch(
            "teacher",
            ModelConfig(model=model),
            StartedServer(start="vllm", **keys),
            source=model,
            content="hash",
            version="0",
            devices=("cpu",),
        )

    def server(self, patience: Patience = QUICK, **keys: Any) -> ModelServer:
        return ModelServer(self.launch(**keys), self.paths, patience)

    def tell(self, name: str, text: str = "") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def starts(self) -> list[dict[str, Any]]:
        """What each start found, in order."""
        path = self.folder / "starts"
        return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []

    def asked(self) -> list[dict[str, Any]]:
        """The requests that were answered, in order."""
        path = self.folder / "asked"
        return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []

    def record(self) -> ServerRecord:
        record = read_server_record(self.paths.record)
        assert record is not None
        return record

    def running(self) -> list[int]:
        """The processes of all starts that have not ended."""
        return [pid for start in self.starts() for pid in start["processes"] if is_running(pid)]

    def wait_for_the_end(self) -> None:
        wait_until(lambda: not self.running(), f"processes to end: {self.running()}")


@contextmanager
def fake_servers(folder: Path, monkeypatch: Any) -> Iterator[FakeServers]:
    """Servers that leave no process behind."""
    monkeypatch.delenv("SWEEPER_VLLM_PYTHON", raising=False)
    monkeypatch.setenv("FAKE_VLLM", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE_VLLM), str(ROOT)]))
    servers = FakeServers(folder)
    yield servers
    for name in ("hang", "silent"):
        (folder / name).unlink(missing_ok=True)
    servers.wait_for_the_end()


def is_running(pid: int) -> bool:
    """Return True unless the process is gone, or waits for its parent to notice that it ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state != b"Z"


def wait_until_up(server: ModelServer, patience: float = 120.0) -> None:
    """Start a server, and wait until it answers."""
    server.start()
    wait_until(lambda: server.state != "starting", "the server to answer", patience)
    server.check()


def failure_of(server: ModelServer, patience: float = 120.0) -> str:
    """Start a server that cannot be started; return why."""
    try:
        wait_until_up(server, patience)
    except ServerError as error:
        return str(error)
    raise AssertionError("it was started")


def last_start(servers: FakeServers) -> ServerStart:
    return servers.record().starts[-1]


@contextmanager
def first_port_taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Somebody else listens on the port that the next server is given first."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken: int = other.getsockname()[1]
        ports = iter([taken, free_port()])
        monkeypatch.setattr("sweeper.serving.model_server.free_port", lambda: next(ports))
        yield taken
