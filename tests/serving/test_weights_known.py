"""A server answers for the weights that it was last given, and takes none without its key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from sweeper.serving.client import WEIGHTS_HEADER
from sweeper.serving.in_server.require_key import RequireKey
from sweeper.serving.in_server.weights_known import HEADER, PATH, WeightsKnown

Ask = Callable[..., int]
KEY = "correct"


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204})


def asking(app: Any) -> Ask:
    """Ask an application; return the status that it answers."""

    def ask(path: str, weights: str | None = None, key: str = KEY, kind: str = "http") -> int:
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        async def receive() -> MutableMapping[str, Any]:
            raise AssertionError("nothing is read of a request")

        headers = [(b"authorization", f"Bearer {key}".encode())]
        headers += [] if weights is None else [(HEADER, weights.encode())]
        asyncio.run(app({"type": kind, "path": path, "headers": headers}, receive, send))
        return int(sent[0]["status"])

    return ask


@pytest.fixture
def ask() -> Ask:
    return asking(WeightsKnown(application))


def test_the_client_and_the_server_mean_the_same_header() -> None:
    assert WEIGHTS_HEADER.lower().encode() == HEADER


@pytest.mark.parametrize("path", ["/v1/completions", "/collective_rpc", "/reset_prefix_cache"])
def test_a_request_for_other_weights_is_refused(ask: Ask, path: str) -> None:
    assert ask(path, "a") == 412
    assert ask(PATH, "a") == 200
    assert ask(path, "a") == 204
    assert ask(path, "A") == 412
    assert ask(PATH, "b") == 200
    assert (ask(path, "a"), ask(path, "b")) == (412, 204)


def test_without_a_name_the_weights_have_none(ask: Ask) -> None:
    assert ask(PATH, "a") == 200
    assert ask(PATH) == 200
    assert ask("/v1/completions", "a") == 412


def test_a_request_that_names_no_weights_is_passed_on(ask: Ask) -> None:
    assert ask("/health") == 204
    assert ask(PATH, "a") == 200
    assert ask("/v1/models") == 204


def test_the_start_of_the_server_is_passed_on() -> None:
    app = WeightsKnown(application)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "lifespan"}, application, send))
    assert len(sent) == 1


def test_nobody_names_weights_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is that of the command: vLLM's outermost middleware is the last one given."""
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    ask = asking(RequireKey(WeightsKnown(application)))
    assert ask(PATH, "a") == 200
    assert ask(PATH, "b", key="wrong") == 401
    assert ask("/collective_rpc", "a", key="wrong") == 401
    assert ask("/collective_rpc", "x", key="wrong") == 401  # not which weights there are
    assert ask("/collective_rpc", "a") == 204
    assert ask("/health", key="wrong") == 204
