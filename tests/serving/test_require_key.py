"""Every path of a server asks for the key, but for the one that tells nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from sweeper.serving.in_server.require_key import RequireKey

Sent = list[MutableMapping[str, Any]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sent]:
    """Ask an application that answers 200; return what it sends."""
    monkeypatch.setenv("VLLM_API_KEY", "correct")

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    def ask(path: str, *keys: str, kind: str = "http") -> Sent:
        sent: Sent = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        async def receive() -> MutableMapping[str, Any]:
            raise AssertionError("nothing is read of a request")

        headers = [(b"authorization", f"Bearer {key}".encode()) for key in keys]
        scope = {"type": kind, "path": path, "headers": headers}
        asyncio.run(RequireKey(answer)(scope, receive, send))
        return sent

    return ask


@pytest.mark.parametrize("path", ["/v1/completions", "/invocations", "/collective_rpc", "/health/"])
def test_a_request_without_the_key_is_refused(ask: Callable[..., Sent], path: str) -> None:
    for keys in ((), ("wrong",), ("",), ("correct ",), ("wrong", "correct")):
        assert ask(path, *keys)[0]["status"] == 401
    assert ask(path, "correct")[0]["status"] == 200


def test_anyone_may_ask_if_it_is_well(ask: Callable[..., Sent]) -> None:
    assert ask("/health")[0]["status"] == 200


def test_a_web_socket_without_the_key_is_closed(ask: Callable[..., Sent]) -> None:
    assert ask("/v1/realtime", kind="websocket") == [{"type": "websocket.close", "code": 1008}]


def test_what_is_no_request_is_passed_on(ask: Callable[..., Sent]) -> None:
    assert ask("", kind="lifespan")[0]["status"] == 200
