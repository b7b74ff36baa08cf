"""Storage of Optuna's trials: a SQLite file, or a database that several people share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from sweeper.foundation.database_retry import DatabaseAway, Retry, absence
from sweeper.foundation.databases import (
    address,
    is_sqlite,
    sqlite_path,
    sqlite_url,
    with_driver,
)
from sweeper.foundation.errors import SweeperError
from sweeper.foundation.places import database_error
from sweeper.foundation.secrets import redact

Storage = RDBStorage


def open_storage(where: Path | str, retry: Retry | None = None) -> Storage:
    """Open Optuna's tables; create them if they are not there.

    While the database does not answer, calls of the storage raise ``DatabaseAway``, at once and
    always: Optuna's own retries cannot detect that the first try was stored.

    Args:
        where: A SQLite file, or a URL.
        retry: Retries while a database is locked or starting.

    Raises:
        SweeperError: The database cannot be reached or used; a ``PlaceError`` of a SQLite file.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # What goes wrong with a connection is raised, too.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    url = sqlite_url(where) if isinstance(where, Path) else with_driver(where)
    if (file := sqlite_path(url)) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    return (retry or Retry())(lambda: _open(url))


def reach_storage(url: str, retry: Retry | None = None) -> None:
    """Ask whether a database of trials answers; leave it as it is.

    Args:
        url: The database. A SQLite file is made where there is none, so it is not asked for.
        retry: Retries while the database is starting; by default there are none.

    Raises:
        SweeperError: It does not answer.
    """
    if not url.startswith("sqlite:"):
        (retry or Retry(0))(lambda: _reach(with_driver(url)))


def _reach(url: str) -> None:
    engine = sqlalchemy.create_engine(url)
    try:
        engine.connect().close()
    except Exception as error:
        raise _unusable(url, error) from None
    finally:
        engine.dispose()


def close_storage(storage: Storage) -> None:
    """Close the connections; the storage can be used again all the same."""
    storage.remove_session()
    storage.engine.dispose()


def _unusable(url: str, error: Exception) -> Exception:
    """Return why a database cannot be opened: it may answer later, or not."""
    if reason := absence(error, answered=False):
        return DatabaseAway(address(url), reason)
    # Without the cause, whose message may hold the password.
    cause = error.__cause__ or error
    return database_error(cause, url) or SweeperError(
        redact(f"Optuna cannot use {address(url)}: {type(cause).__name__}: {cause}")
    )


def _open(url: str) -> Storage:
    options: dict[str, Any] = {} if is_sqlite(url) else {"pool_pre_ping": True}
    try:
        # Optuna fills its version in where braces stand.
        template = url.replace("{", "{{").replace("}", "}}") if is_sqlite(url) else url
        storage = RDBStorage(template, engine_kwargs=options)
    except Exception as error:
        raise _unusable(url, error) from None

    def translate(context: sqlalchemy.ExceptionContext) -> BaseException | None:
        error = context.sqlalchemy_exception
        # A connection that is found to be dead before it is used is replaced without a word.
        if error is None or context.is_pre_ping:
            return None
        reason = absence(error)
        return DatabaseAway(address(url), reason) if reason else database_error(error, url)

    sqlalchemy.event.listen(storage.engine, "handle_error", translate)
    return storage
