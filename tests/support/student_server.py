"""A real HTTP server that takes students' weights as vLLM's does, behind sweeper's middleware.

It has no model: its answers tell which weights it has.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sweeper.records import ServedModel
from sweeper.serving.in_server.require_key import RequireKey
from sweeper.serving.in_server.weights_known import WeightsKnown
from tests.support.chat_server import Fault, send

KEY = "planted-key-of-the-student-0123456789"
END, VOCABULARY = 99, 100
SHARING = (
    *("/init_weight_transfer_engine", "/start_weight_update", "/update_weights"),
    "/finish_weight_update",
)
"""Paths by which weights come that lie in a GPU's memory."""
Reply = tuple[int, object]


@dataclass
class StudentServer:
    """What the server has and was asked, and what it does next."""

    served: ServedModel
    weights: str = "first"
    """Mark of the weights that it has."""
    well: bool = True
    fault: Callable[[str, dict[str, Any]], Fault | None] = lambda path, body: None
    """Chooses, by a request's path and body, what it does instead of answering."""
    choose: Callable[[dict[str, Any], dict[str, Any]], object] = lambda body, choice: choice
    """Changes the choice that answers a prompt."""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Path and body of the requests that came through, in order."""
    _app: Any = None

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Be a new process: the first weights, and no knowledge of others."""
        self.weights = "first"
        with patch.dict(os.environ, {"VLLM_API_KEY": KEY}):
            # The last one that vLLM is given is the outermost.
            self._app = RequireKey(WeightsKnown(self._answer))

    @property
    def named(self) -> bool:
        """True if a job has given it weights since it was started."""
        return self.weights != "first"

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        status, content = self._reply(scope["path"], json.loads(body) if body else {})
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})

    def _reply(self, path: str, body: dict[str, Any]) -> Reply:
        self.asked.append((path, body))
        if path == "/health":
            return (200 if self.well else 503), {}
        if path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            self.weights = mark(Path(body["kwargs"]["weights_path"]))
            return 200, {"results": [None]}
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        if path == "/update_weights":
            self.weights = body["update_info"]["mark"]
        if path in SHARING:
            return 200, {}
        assert path == "/v1/completions"
        tokens = [*tokens_of(self.weights, body["prompt"], body["seed"]), END]
        choice = {
            "text": "",
            "token_ids": tokens,
            "logprobs": {"token_logprobs": [-0.5] * len(tokens)},
            "finish_reason": "stop",
        }
        return 200, {"choices": [self.choose(body, choice)]}

    def respond(self, handler: BaseHTTPRequestHandler, body: bytes) -> Reply:
        """Pass a request through the middleware to the application."""
        messages: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def collect(message: MutableMapping[str, Any]) -> None:
            messages.append(message)

        headers = [(n.lower().encode(), v.encode()) for n, v in handler.headers.items()]
        scope = {"type": "http", "path": handler.path, "headers": headers}
        asyncio.run(self._app(scope, receive, collect))
        return messages[0]["status"], messages[1]["body"]


def mark(folder: Path) -> str:
    """What distinguishes the weights in a folder from others."""
    files = sorted(folder.glob("*.safetensors"))
    assert files, folder
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def tokens_of(weights: str, prompt: list[int], seed: int) -> list[int]:
    """The answer of a model with these weights, without its end token."""
    digest = sha256(f"{weights} {prompt} {seed}".encode()).digest()
    return [byte % END for byte in digest[:4]]


def write_marked(folder: Path, content: str) -> Path:
    """Write a folder with weights that are no weights."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(content)
    return folder


@contextmanager
def student_server(folder: Path, start_timeout: float = 0.0) -> Iterator[StudentServer]:
    """Serve on a free port of this machine as long as the block lasts; the key lies in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key").write_text(KEY)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            send(self, *state.respond(self, b""))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            fault = state.fault(self.path, json.loads(body))
            if fault is not None:
                return fault(self)
            send(self, *state.respond(self, body))

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

        def handle_error(self, *_: Any) -> None:  # clients that were killed
            pass

    server = Server(("127.0.0.1", 0), Handler)
    state = StudentServer(
        ServedModel(
            url=f"http://127.0.0.1:{server.server_port}/v1",
            name="student-0",
            key_file=str(folder / "key"),
            start_timeout=start_timeout,
        )
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
