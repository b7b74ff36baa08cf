"""The client against a real socket: what is asked again, what stops, and what is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from sweeper.config.remote_server import RemoteServer
from sweeper.foundation.errors import BadInputError, NoAnswerError
from sweeper.serving.client import LARGEST, ModelClient, StoppedError, delay, read_key, retry_after
from sweeper.serving.replies import Reply, read_chat
from tests.support.chat_server import (
    KEY,
    ChatServer,
    Fault,
    added,
    chat_server,
    close,
    half_a_body,
    hanging,
    reply,
    send,
)

QUESTION = "1234+5678?"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


def ask(server: ChatServer, log: list[str] | None = None, **keys: Any) -> Reply:
    chosen = RemoteServer(url=server.url, **keys)
    with ModelClient(chosen, read_key(chosen), (log or []).append) as client:
        return question(client)


def question(client: ModelClient) -> Reply:
    body = {"model": "m", "messages": [{"role": "user", "content": QUESTION}]}
    return client.ask("chat/completions", body, read_chat, "row 7")


NOW = {"Retry_After": "0"}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (reply(429, "slow down", **NOW), "429 Too Many Requests: slow down"),
        (reply(408, "late", **NOW), "408 Request Timeout: late"),
        (reply(409, b"", **NOW), "409 Conflict: no text"),
        (reply(500, "boom", **NOW), "500 Internal Server Error: boom"),
        (reply(503, b"<h1>Down</h1>", **NOW), "503 Service Unavailable: <h1>Down</h1>"),
        (reply(599, "odd", **NOW), "599 (no known status): odd"),
        (half_a_body, "no connection, or a broken one (remote protocol error)"),
        (close, "no connection, or a broken one (remote protocol error)"),
        (reply(200, b"\x1b[2J<html>"), "nonsense: no JSON ([2J<html>)"),
        (reply(200, b"[" * 100_000), "nonsense: no JSON"),
        (reply(200, b"{}"), "nonsense: no choices"),
    ],
)
def test_what_passes_is_asked_again(server: ChatServer, fault: Fault, told: str) -> None:
    server.faults = [fault]
    log: list[str] = [""]
    assert ask(server, log).text == added(QUESTION)
    assert len(server.asked) == 2
    assert log[1].startswith(f"row 7: {told}")
    assert "asking again in" in log[1]


def test_a_server_that_hangs_is_asked_again(server: ChatServer) -> None:
    release = threading.Event()
    server.faults = [hanging(release)]
    log: list[str] = [""]
    try:
        assert ask(server, log, timeout=0.2).text == added(QUESTION)
    finally:
        release.set()
    assert "no whole answer in 0.2 s (timeout)" in log[1]


def test_a_reply_without_end_is_cut_off(server: ChatServer) -> None:
    server.always = lambda handler: send(handler, 200, b" " * (LARGEST + 1))
    with pytest.raises(NoAnswerError, match="nonsense: more than 16 MiB"):
        ask(server, retry_for=0.01)


@pytest.mark.parametrize(
    ("status", "key", "advice"),
    [
        (400, ("teacher", "server"), "Check url, model and extra_body."),
        (404, ("teacher", "server"), "Check url, model and extra_body."),
        (422, ("teacher", "server"), "Check url, model and extra_body."),
        (401, ("teacher", "server"), "If the server needs a key, write api_key_env."),
        (403, ("teacher", "server"), "If the server needs a key, write api_key_env."),
        (307, ("teacher", "server", "url"), "Write the address that it redirects to."),
    ],
)
def test_what_does_not_pass_stops_at_once(
    server: ChatServer, status: int, key: tuple[str, ...], advice: str
) -> None:
    server.always = reply(status, "no model\x1b[31m m", Location="http://127.0.0.1:9/")
    with pytest.raises(BadInputError) as caught:
        ask(server)
    assert caught.value.key == key
    assert f"refused row 7 with {status} " in str(caught.value)
    assert "no model[31m m. " in str(caught.value)
    assert str(caught.value).endswith(advice)
    assert len(server.asked) == 1


def test_a_server_that_stays_away_is_given_up(server: ChatServer) -> None:
    server.always = reply(503, "down", **NOW)
    message = "does not answer: row 7 was asked .* times, the last time: 503 .*: down"
    with pytest.raises(NoAnswerError, match=message) as caught:
        ask(server, retry_for=0.05)
    assert "run the same command again to resume" in str(caught.value)
    # One that asks for more patience than there is gets none.
    server.always = reply(429, "quota", Retry_After="3600")
    before = len(server.asked)
    with pytest.raises(NoAnswerError, match=r"was asked once.*in 3600 s"):
        ask(server, retry_for=60.0)
    assert len(server.asked) == before + 1


def test_nobody_listens(server: ChatServer) -> None:
    gone = RemoteServer(url="http://127.0.0.1:9/v1", retry_for=0.01)
    with (
        ModelClient(gone, None, print) as client,
        pytest.raises(NoAnswerError, match=r"no connection, or a broken one \(connect error\)"),
    ):
        question(client)


def test_a_stopped_client_asks_no_more(server: ChatServer) -> None:
    with ModelClient(RemoteServer(url=server.url), None, print) as client:
        client.stop()
        with pytest.raises(StoppedError):
            question(client)
    assert server.asked == []


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = KEY
    monkeypatch.setenv("TEACHER_KEY", f" {KEY}\n")
    assert ask(server, api_key_env="TEACHER_KEY").text == added(QUESTION)
    # Not even if the server repeats it: in an error, or in an answer.
    server.say = lambda prompt: {"content": f"{added(prompt)} {KEY}"}
    assert ask(server, api_key_env="TEACHER_KEY").text == f"{added(QUESTION)} ***"
    server.key = "another"
    with pytest.raises(BadInputError) as caught:
        ask(server, api_key_env="TEACHER_KEY")
    assert caught.value.key == ("teacher", "server", "api_key_env")
    assert "401 Unauthorized: wrong key Bearer ***. Check the key" in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_key_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    server = RemoteServer(url="http://127.0.0.1:9/v1", api_key_env="TEACHER_KEY")
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(BadInputError, match="TEACHER_KEY, which is not set where jobs run"):
        read_key(server)
    for wrong in ("two\nlines", "schlüssel", "with space"):
        monkeypatch.setenv("TEACHER_KEY", wrong)
        with pytest.raises(BadInputError, match="printable ASCII") as caught:
            read_key(server)
        assert wrong not in str(caught.value)
    assert read_key(RemoteServer(url="http://127.0.0.1:9/v1")) is None


def test_the_pauses_grow_and_differ() -> None:
    for attempt, longest in enumerate((0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60), start=1):
        pauses = {delay(attempt) for _ in range(20)}
        assert all(longest / 2 <= pause <= longest for pause in pauses)
        assert len(pauses) > 1
    assert delay(10_000) <= 60
    assert delay(1, 7.0) == 7.0


def test_the_date_of_a_retry() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 < (retry_after(soon) or 0) <= 90
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("12") == 12
    for odd in (None, "", "soon", "-3", "1e9", "9" * 400, "Wed, 99 Oct 2015"):
        assert retry_after(odd) is None
