"""What a server on this machine answers, asked without a proxy and within a limit."""

from __future__ import annotations

import json
import socket
from http.client import HTTPConnection, HTTPException
from typing import Any

HOST = "127.0.0.1"


def base_url(port: int) -> str:
    """Return the URL under which a server on this machine has the OpenAI API."""
    return f"http://{HOST}:{port}/v1"


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_healthy(port: int, seconds: float) -> bool:
    """Return True if ``/health`` answers in time, and well."""
    return _get(port, "/health", seconds) is not None


def serves(port: int, name: str, key: str, seconds: float) -> bool:
    """Return True if the server knows ``key`` and serves a model of this ``name``."""
    body = _get(port, "/v1/models", seconds, key)
    try:
        models: Any = json.loads(body or b"")["data"]
        return any(model["id"] == name for model in models)
    except (ValueError, LookupError, TypeError):
        return False


def _get(port: int, path: str, seconds: float, key: str | None = None) -> bytes | None:
    """Return the body of a good answer; None for any other, or none."""
    connection = HTTPConnection(HOST, port, timeout=seconds)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read(2**20)
        return body if answer.status == 200 else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
