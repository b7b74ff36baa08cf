"""A real HTTP server that speaks OpenAI's API, adds numbers, and fails on demand."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sweeper.config.builtin.addition import answer

KEY = "planted-key-of-the-teacher-0123456789"
Fault = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class ChatServer:
    """What the server was asked, and what it does next."""

    url: str = ""
    key: str | None = None
    """Key that it asks for."""
    finish: str = "stop"
    faults: list[Fault | None] = field(default_factory=list)
    """What it does with the next requests, instead of answering; None: it answers."""
    always: Fault | None = None
    """What it does with every request."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Requests, in the order of their arrival."""
    answered: Counter[str] = field(default_factory=Counter)
    """Number of answers that went out whole, by prompt."""
    say: Callable[[str], dict[str, Any]] = lambda prompt: {"content": added(prompt)}
    """Makes the message that answers a prompt."""
    complete: Callable[[list[int]], tuple[str, dict[str, Any]]] = lambda tokens: ("", {})
    """Makes the prompt's text and the choice that answers token ids."""
    judge: Callable[[list[int], int], list[Any]] = lambda tokens, k: []
    """Makes the ``prompt_logprobs`` of token ids: of the k most likely ones at each position."""
    answer: Callable[[dict[str, Any]], tuple[str, dict[str, Any]]] | None = None
    """Makes both from the whole request, if it is given."""
    also: Callable[[BaseHTTPRequestHandler, dict[str, Any]], bool] | None = None
    """Answers requests of other kinds; returns False for the rest."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def section(self, model: str = "adder-9000", **keys: Any) -> dict[str, Any]:
        """The teacher of a study."""
        return {"model": model, "server": {"url": self.url, **keys}}


def added(prompt: str) -> str:
    """The written-out sum of a question such as ``1234+5678?``."""
    a, b = prompt.strip().removesuffix("?").split("+")
    return answer(int(a), int(b))


@contextmanager
def chat_server(**settings: Any) -> Iterator[ChatServer]:
    """Serve on a free port of this machine as long as the block lasts."""
    state = ChatServer(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.asked.append(body)
                fault = state.faults.pop(0) if state.faults else state.always
            if state.key and self.headers.get("Authorization") != f"Bearer {state.key}":
                return reply(401, f"wrong key {self.headers.get('Authorization')}")(self)
            if fault is not None:
                return fault(self)
            if state.also is not None and state.also(self, body):
                return None
            if state.answer is not None:
                prompt, choice = state.answer(body)
            elif "prompt_logprobs" in body:
                prompt, k = str(body["prompt"]), body["prompt_logprobs"]
                choice = {"text": "", "prompt_logprobs": state.judge(body["prompt"], k)}
            elif "prompt" in body:
                prompt, choice = state.complete(body["prompt"])
            else:
                prompt = body["messages"][-1]["content"]
                choice = {"message": {"role": "assistant", **state.say(prompt)}}
            usage = {"prompt_tokens": 10, "completion_tokens": 40}
            send(
                self,
                200,
                {"choices": [{"finish_reason": state.finish, **choice}], "usage": usage},
            )
            with state.lock:
                state.answered[prompt] += 1

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:  # clients that were killed
            pass

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, status: int, body: object, **headers: str) -> None:
    """Send a whole response of JSON, or of the bytes that are given."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(content)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def reply(status: int, said: object = "", **headers: str) -> Fault:
    """A response with this status; ``said`` is its error message, or its bytes."""
    body = said if isinstance(said, bytes) else {"error": {"message": said}}
    return lambda handler: send(handler, status, body, **headers)


def half_a_body(handler: BaseHTTPRequestHandler) -> None:
    """Promise more than comes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    close(handler)


def close(handler: BaseHTTPRequestHandler) -> None:
    """End the connection."""
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def hanging(release: threading.Event) -> Fault:
    """Say nothing until ``release`` is set."""

    def hang(handler: BaseHTTPRequestHandler) -> None:
        release.wait()
        close(handler)

    return hang
