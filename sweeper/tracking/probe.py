"""A first look at a store of MLflow's, which itself would try for minutes."""

from __future__ import annotations

import contextlib
import sqlite3
import urllib.error
import urllib.request

from sweeper.foundation.databases import is_server, is_sqlite, sqlite_path

_ANSWER_SECONDS = 10.0
"""Seconds to wait for a server to answer at all."""


def probe(uri: str) -> None:
    """Fail at once where MLflow would try again for minutes.

    Raises:
        Exception: Nothing answers at ``uri``.
    """
    if is_server(uri):
        # A server that refuses us does answer, and MLflow says why better than we could.
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_ANSWER_SECONDS).close()
    elif (path := sqlite_path(uri)) is not None:
        if path.exists():
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA schema_version")
    elif not is_sqlite(uri) and "://" in uri:
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
