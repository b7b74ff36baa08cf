"""The URLs of databases: which are accepted, how they are opened, and how they are shown."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from sweeper.foundation.secrets import is_secret_name, redact

_POSTGRES = ("postgresql", "postgresql+psycopg")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_HOSTED = ("databricks", "databricks-uc", "uc")
"""MLflow's stores that Databricks hosts."""
_IN_MEMORY = ("sqlite://", "sqlite:///:memory:")
_CONNECTION = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""libpq's: a machine that went away without a word is noticed within a minute, not in hours."""

NO_DRIVER = "PostgreSQL needs psycopg: pip install 'sweeper[postgres]'"


def storage_problem(url: str) -> str | None:
    """Return what is wrong with ``url`` as a place for Optuna's studies, or None."""
    shapes = "sqlite:///FILE or postgresql://USER@HOST/DATABASE"
    problem = f"expected {shapes}, found {redact(url)!r}"
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        file = url.removeprefix("sqlite:///").partition("?")[0]
        return None if url.startswith("sqlite:///") and file not in ("", ":memory:") else problem
    if scheme not in _POSTGRES or "://" not in url:
        return problem
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        # Brackets and ports; what stands there may be a part of a password.
        reason = "the port is no number" if "ort" in str(error) else "the host is malformed"
        return (
            f"expected {shapes}, but {reason}"
            " (in a password, percent-encode what is no letter or digit)"
        )
    return None if parts.path.strip("/") else problem


def tracking_problem(uri: str) -> str | None:
    """Return what is wrong with ``uri`` as a place for MLflow's runs, or None."""
    if is_server(uri) or uri.partition(":")[0] in _HOSTED:
        return None
    if is_database(uri) and "://" in uri and uri not in _IN_MEMORY:
        return None
    return (
        "expected sqlite:///FILE, another database's URL or http(s)://SERVER, found"
        f" {redact(uri)!r} (MLflow's folders of files cannot hold a study; without the key, the"
        " runs are in runs/mlflow.db)"
    )


def is_sqlite(url: str) -> bool:
    """Return True if ``url`` is that of a SQLite file, or of a database in memory."""
    return url.partition("://")[0].partition("+")[0] == "sqlite"


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file; signs that mean something in URLs are encoded."""
    place = re.sub(r"[%?#]", lambda sign: f"%{ord(sign[0]):02X}", str(path.resolve()))
    return with_driver(f"sqlite:///{place}")


def sqlite_path(uri: str) -> Path | None:
    """Return the file of ``sqlite:///FILE``; None for any other URI."""
    _, _, place = uri.partition(":///")
    if not is_sqlite(uri) or not place or place.startswith((":memory:", "file:")):
        return None
    return Path(unquote(urlsplit(f"//host/{place}").path[1:]))


def is_database(uri: str) -> bool:
    """Return True if ``uri`` is a database's, which MLflow opens itself, not a server's."""
    return urlsplit(uri).scheme.partition("+")[0] in _DATABASES


def with_driver(url: str) -> str:
    """Return ``url`` for SQLAlchemy: PostgreSQL through psycopg 3, which notices a lost server.

    A SQLite file whose URL has encoded signs gets its driver's name, too: without it, MLflow makes
    a folder with the signs as they are encoded. Anything else, PostgreSQL through another driver
    included, stays as it is. So does what the query of ``url`` says already.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and "%" in rest:
        return f"sqlite+pysqlite://{rest}"
    if scheme not in _POSTGRES or not separator:
        return url
    base, _, query = rest.partition("?")
    given = [part for part in query.split("&") if part]
    names = {part.partition("=")[0] for part in given}
    given += [f"{name}={value}" for name, value in _CONNECTION.items() if name not in names]
    return f"postgresql+psycopg://{base}?{'&'.join(given)}"


def lacks_driver(url: str) -> bool:
    """Return True if ``url`` needs psycopg, and it is not installed or cannot be loaded."""
    if url.partition("://")[0] not in _POSTGRES:
        return False
    try:
        importlib.import_module("psycopg")
    except ImportError:
        return True
    return False


def address(url: str) -> str:
    """Return ``url`` for messages: no password, no options."""
    return redact(url).partition("?")[0]


def comparable(url: str) -> str:
    """Return ``url`` for comparing, without the password and the driver's name."""
    scheme, separator, rest = url.partition("://")
    if scheme not in _POSTGRES or not separator:
        return redact(url)
    parts = urlsplit(f"postgresql://{rest}")
    user, at, host = parts.netloc.rpartition("@")
    named = user.partition(":")[0] + at + host
    kept = [part for part in parts.query.split("&") if not is_secret_name(part.partition("=")[0])]
    return urlunsplit(("postgresql", named, parts.path, "&".join(kept), ""))


def has_password(uri: str) -> bool:
    """Return True if ``uri`` holds a password, and so must not become an argument or a log line."""
    return redact(uri) != uri


def is_server(uri: str) -> bool:
    """Return True if ``uri`` names a running MLflow server, not a database."""
    return uri.startswith(("http://", "https://"))
