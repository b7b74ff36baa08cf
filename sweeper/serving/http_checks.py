"""What a server on this machine answers, asked without a proxy and within a limit."""

from __future__ import annotations

import json
import socket
from http.client import HTTPConnection, HTTPException
from typing import Any, Literal

HOST = "127.0.0.1"


def base_url(port: int) -> str:
    """Return the URL under which a server on this machine has the OpenAI API."""
    return f"http://{HOST}:{port}/v1"


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


Health = Literal["well", "unwell", "silent"]


def health(port: int, seconds: float) -> Health:
    """Ask ``/health``; a server whose engine has ended answers, but not well."""
    status, _ = _get(port, "/health", seconds)
    return "silent" if status is None else "well" if status == 200 else "unwell"


def serves(port: int, name: str, key: str, seconds: float) -> bool:
    """Return True if the server knows ``key`` and serves a model of this ``name``."""
    status, body = _get(port, "/v1/models", seconds, key)
    try:
        models: Any = json.loads(body)["data"]
        return status == 200 and any(model["id"] == name for model in models)
    except (ValueError, LookupError, TypeError):
        return False


def generates(port: int, name: str, key: str, seconds: float) -> bool:
    """Return True if the server generates a token."""
    body = {"model": name, "prompt": [0], "max_tokens": 1}
    status, _ = _ask("POST", port, "/v1/completions", seconds, key, body)
    return status == 200


def _get(port: int, path: str, seconds: float, key: str = "") -> tuple[int | None, bytes]:
    return _ask("GET", port, path, seconds, key)


def _ask(
    method: str, port: int, path: str, seconds: float, key: str, body: object = None
) -> tuple[int | None, bytes]:
    """Return status and body of an answer; None as the status of none."""
    connection = HTTPConnection(HOST, port, timeout=seconds)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    content = None if body is None else json.dumps(body)
    if content is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(2**20)
    except (OSError, HTTPException):
        return None, b""
    finally:
        connection.close()
