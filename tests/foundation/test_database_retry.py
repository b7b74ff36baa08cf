"""Waiting for a database that does not answer: on real servers and files."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeper.config.arms import ArmConfig
from sweeper.config.search import SamplerConfig
from sweeper.foundation.database_retry import DatabaseAway, Retry, absence
from sweeper.foundation.errors import SweeperError
from sweeper.records import Failure, Outcome
from sweeper.search.arm_search import ArmSearch, Asked
from sweeper.search.storage import Storage, close_storage, open_storage
from tests.support.postgres import PASSWORD, QUOTED, Server

SPACE = {"beta": {"type": "float", "low": 0.0, "high": 1.0}}
ENDED = Outcome(
    state="failed", failure=Failure(kind="bug", message="it broke"), started=0.0, finished=1.0
)


class Told:
    """What the user is told; ``then`` is called at the first word of each waiting."""

    def __init__(self, retry: Retry, then: Callable[[], None]) -> None:
        self.texts: list[str] = []
        self._then = then
        retry.tell = self

    def __call__(self, text: str) -> None:
        self.texts.append(text)
        if "does not answer" in text:
            self._then()


def open_search(
    storage: Storage, retry: Retry, kind: str = "tpe", study: str = "mine"
) -> ArmSearch:
    space = SPACE
    if kind == "grid":
        space = {"beta": {"type": "categorical", "choices": [0.0, 0.25, 0.5, 0.75, 1.0]}}
    return ArmSearch(
        storage,
        study,
        "gkd",
        ArmConfig.model_validate({"method": "gkd", "search": space}),
        SamplerConfig.model_validate({"type": kind}),
        seed=1,
        higher_is_better=True,
        retry=retry,
    )


def test_what_answers_is_not_repeated() -> None:
    retry = Retry()
    told = Told(retry, lambda: None)
    assert retry(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        retry(lambda: 1 // 0)
    assert told.texts == []


def test_it_gives_up_with_a_message_and_does_not_wait_again() -> None:
    retry = Retry(0.2)
    tries = []

    def silent() -> None:
        tries.append(1)
        raise DatabaseAway("postgresql://db/x", "connection refused")

    with pytest.raises(SweeperError) as caught:
        retry(silent)
    assert caught.value.exit_code == 1
    assert "postgresql://db/x did not answer for 0 seconds: connection refused" in str(caught.value)
    assert "run the same command again once" in str(caught.value)
    assert len(tries) > 1
    tries.clear()
    with pytest.raises(SweeperError):
        retry(silent)
    assert len(tries) == 1


def test_waiting_can_be_ended_from_outside() -> None:
    retry = Retry()

    def silent() -> None:
        raise DatabaseAway("db", "gone")

    def stop() -> None:
        raise KeyboardInterrupt

    retry.while_waiting = stop
    with pytest.raises(KeyboardInterrupt):
        retry(silent)


@pytest.mark.parametrize("kind", ["tpe", "grid"])
@pytest.mark.slow
def test_a_server_that_restarts_between_calls_loses_nothing(postgres: Server, kind: str) -> None:
    retry = Retry()
    told = Told(retry, postgres.start)
    storage = open_storage(postgres.database(), retry)
    search = open_search(storage, retry, kind)
    found = []
    for number in range(3):
        postgres.stop()
        asked = search.ask()
        found.append(asked)
        assert asked.number == number
        postgres.stop()
        assert search.resume(number) == asked
        postgres.stop()
        search.tell(number, ENDED)
    assert {state.name for state in search.asked().values()} == {"FAIL"}
    assert len(search.asked()) == 3
    # And a restart that is over before the next call goes unnoticed.
    told.texts.clear()
    postgres.stop()
    postgres.start()
    assert search.ask().number == 3
    assert told.texts == []
    close_storage(storage)


@pytest.mark.soak
def test_a_server_that_goes_away_within_any_statement_loses_nothing(postgres: Server) -> None:
    """The server ends the connection before, or after, each statement and commit of an ask."""
    retry = Retry()
    told = Told(retry, lambda: None)
    url = postgres.database()
    for allowed in range(100):
        storage = open_storage(url, retry)
        search = open_search(storage, retry, "grid", f"study {allowed}")
        broken = _break_after(storage, allowed, postgres, url.rpartition("/")[2])
        assert search.ask() == Asked(0, {"beta": 0.0})
        search.tell(0, ENDED)
        assert {number: state.name for number, state in search.asked().items()} == {0: "FAIL"}
        close_storage(storage)
        if not broken:
            break
    assert allowed > 10
    assert told.texts


def _break_after(storage: Storage, allowed: int, server: Server, database: str) -> list[int]:
    """Have the server end the connections at the event ``allowed``; the list then is not empty."""
    broken: list[int] = []
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == allowed + 1:
            broken.append(seen)
            with server.connect() as connection:
                connection.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                    " where datname = %s",
                    (database,),
                )

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", count)
    sqlalchemy.event.listen(storage.engine, "commit", count)
    return broken


@pytest.mark.slow
def test_a_commit_whose_answer_is_lost_is_not_repeated(postgres: Server) -> None:
    retry = Retry()
    told = Told(retry, lambda: None)
    storage = open_storage(postgres.database(), retry)
    search = open_search(storage, retry, "grid")
    lost: list[str] = []

    def commit(connection: object) -> None:
        # As when the server stored it and the network then failed.
        connection.commit()  # type: ignore[attr-defined]
        if len(lost) < 6:
            lost.append("")
            raise storage.engine.dialect.loaded_dbapi.OperationalError("server closed it")

    storage.engine.dialect.do_commit = commit
    assert search.ask().number == 0
    search.tell(0, ENDED)
    assert len(lost) == 6
    assert [state.name for state in search.asked().values()] == ["FAIL"]
    assert search.ask().number == 1
    assert list(search.asked()) == [0, 1]
    assert any("server closed it" in text for text in told.texts)
    close_storage(storage)


def test_a_locked_file_loses_nothing(tmp_path: Path) -> None:
    retry = Retry()
    file = tmp_path / "study.db"
    url = f"sqlite:///{file}?timeout=0.05"
    search = open_search(open_storage(url, retry), retry)
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    told = Told(retry, lambda: other.execute("rollback"))
    for number in range(2):
        other.execute("begin exclusive")
        asked = search.ask()
        assert asked.number == number
        other.execute("begin exclusive")
        search.tell(number, ENDED)
    assert [text.split("?")[0] for text in told.texts[::2]] == [told.texts[0].split("?")[0]] * 4
    assert "database is locked" in told.texts[0]
    assert told.texts[1] == "The database answers again; the study continues."
    assert list(search.asked()) == [0, 1]
    other.execute("begin exclusive")
    close_storage(open_storage(url, retry))
    assert len(told.texts) == 10
    other.close()


def test_a_wrong_address_is_told_at_once_and_without_the_password(postgres: Server) -> None:
    retry = Retry()
    told = Told(retry, lambda: None)
    wrong = {
        postgres.url("nowhere"): 'database "nowhere" does not exist',
        postgres.url("postgres", "hunter2"): "password authentication failed",
        f"postgresql://me:{QUOTED}@127.0.0.1:9/x": "onnection refused",
    }
    for url, reason in wrong.items():
        with pytest.raises(SweeperError, match=reason) as caught:
            open_storage(url, retry)
        assert "Optuna cannot use postgresql+psycopg://" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert PASSWORD not in str(caught.value) and QUOTED not in str(caught.value)
    assert told.texts == []


def test_the_password_may_be_in_the_environment_or_in_pgpass(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url(postgres.database().rpartition("/")[2], None)
    with pytest.raises(SweeperError, match="no password supplied"):
        open_storage(url)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    close_storage(open_storage(url))
    monkeypatch.delenv("PGPASSWORD")
    words = tmp_path / "pgpass"
    words.write_text(f"127.0.0.1:{postgres.port}:*:*:{PASSWORD.replace(':', chr(92) + ':')}\n")
    words.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(words))
    close_storage(open_storage(url))


def test_only_what_passes_is_waited_for(postgres: Server) -> None:
    engine = sqlalchemy.create_engine(postgres.database().replace("://", "+psycopg://", 1))

    def error_of(text: str) -> BaseException:
        with pytest.raises(sqlalchemy.exc.DBAPIError) as caught, engine.connect() as connection:
            connection.execute(sqlalchemy.text(text))
        return caught.value

    assert absence(error_of("select 1 / 0")) is None
    assert absence(error_of("select * from nothing")) is None
    gone = error_of("select pg_terminate_backend(pg_backend_pid())")
    assert absence(gone)
    assert absence(gone, answered=False) is None
    assert absence(ValueError("database is locked")) is None
    engine.dispose()


def test_a_server_that_goes_in_the_middle_of_an_answer_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

        answering = threading.Thread(target=answer)
        answering.start()
        client = MlflowClient(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(MlflowException, match="Connection broken") as caught:
            client.search_experiments()
        answering.join()
    assert absence(caught.value)
    assert absence(caught.value, answered=False) is None
