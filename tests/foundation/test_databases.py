"""URLs of databases, in the study file and in messages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.config.loading import load_study
from sweeper.foundation.databases import (
    address,
    comparable,
    has_password,
    is_database,
    storage_problem,
    tracking_problem,
    with_driver,
)
from sweeper.foundation.errors import ConfigError
from sweeper.foundation.secrets import redact

WriteStudy = Callable[..., Path]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///study.db",
        "sqlite:////data/study.db?timeout=30",
        "postgresql://db.example/optuna",
        "postgresql://me:pw@db.example:5433/optuna?sslmode=require",
        "postgresql+psycopg://me@[::1]:5432/optuna",
        "postgresql:///optuna?host=/run/postgresql",
    ],
)
def test_urls_that_can_hold_a_search(url: str) -> None:
    assert storage_problem(url) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("study.db", "found 'study.db'"),
        ("sqlite://", "found 'sqlite://'"),
        ("sqlite:///:memory:", "found 'sqlite:///:memory:'"),
        ("postgres://me:hunter2@db/optuna", "found 'postgres://me:***@db/optuna'"),
        ("mysql://me:hunter2@db/optuna", "found 'mysql://me:***@db/optuna'"),
        ("postgresql+psycopg2://db/optuna", "found 'postgresql+psycopg2://db/optuna'"),
        ("postgresql://me:hunter2@db", "found 'postgresql://me:***@db'"),
        ("postgresql://me:hunter2/8@db/optuna", "but the port is no number"),
        ("postgresql://me:hunter2@[db/optuna", "but the host is malformed"),
    ],
)
def test_others_are_refused_at_their_line_without_their_password(
    write_study: WriteStudy, url: str, shown: str
) -> None:
    path = write_study(storage=url)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    [problem] = caught.value.problems
    assert problem.path == "storage"
    assert problem.line is not None
    assert "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE, " in problem.message
    assert shown in problem.message
    assert "hunter2" not in str(caught.value)


def test_one_database_does_not_take_both(write_study: WriteStudy) -> None:
    both = {
        "storage": "postgresql://me:one@db/mine",
        "tracking": {"uri": "postgresql+psycopg://me@db/mine"},
    }
    with pytest.raises(ConfigError, match=r"expected another database than tracking\.uri's"):
        load_study(write_study(**both))
    load_study(write_study(**{**both, "storage": "postgresql://me@db/optuna"}))


def test_postgres_goes_through_psycopg_3_and_notices_a_lost_server() -> None:
    opened = with_driver("postgresql://me:pw@db/x?sslmode=require&connect_timeout=3")
    assert opened.startswith("postgresql+psycopg://me:pw@db/x?sslmode=require&connect_timeout=3&")
    assert "tcp_user_timeout=" in opened
    assert with_driver(opened) == opened
    for other in ("sqlite:///x.db", "http://h:5000", "postgresql+psycopg2://db/x", "mlruns"):
        assert with_driver(other) == other


def test_messages_show_neither_password_nor_options() -> None:
    opened = with_driver("postgresql://me:pw@db/x?password=pw")
    assert address(opened) == "postgresql+psycopg://me:***@db/x"


def test_a_password_is_no_difference() -> None:
    same = {
        comparable(url)
        for url in (
            "postgresql://me@db/x",
            "postgresql://me:pw@db/x",
            "postgresql+psycopg://me:p%40w@db/x?password=other",
            "postgresql://me:***@db/x?password=***",
        )
    }
    assert same == {"postgresql://me@db/x"}
    assert comparable("postgresql://you@db/x") not in same
    assert comparable("postgresql://me@db/y") not in same
    assert comparable("sqlite:///x.db") == "sqlite:///x.db"


def test_what_mlflow_opens_itself() -> None:
    assert is_database("sqlite:///x.db")
    assert is_database("postgresql+psycopg://db/x")
    assert not is_database("https://h")
    assert not is_database("databricks")


@pytest.mark.parametrize("command", ["run", "ui"])
@pytest.mark.parametrize("key", ["storage", "tracking.uri"])
def test_without_psycopg_one_message_says_what_to_install(
    write_study: WriteStudy, tmp_path: Path, key: str, command: str
) -> None:
    url = "postgresql://me:hunter2@127.0.0.1:9/x"
    code = f"""
import sys
sys.modules["psycopg"] = None  # As if it were not installed.
from sweeper.cli import main
sys.argv = ["sweeper", "{command}", "study.yaml", "--set", "{key}={url}"]
main()
"""
    write_study()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"{key}: PostgreSQL needs psycopg: pip install 'sweeper[postgres]'" in line
    assert "hunter2" not in done.stderr + done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://me:***@host/db"),
        (
            "postgresql+psycopg://me:p@w:x/y@host:5432/db",
            "postgresql+psycopg://me:***@host:5432/db",
        ),
        (
            "postgresql://host/db?user=me&password=pw&x=1",
            "postgresql://host/db?user=me&password=***&x=1",
        ),
        ("run --set uri=http://:pw@host and more", "run --set uri=http://:***@host and more"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert has_password(text)


@pytest.mark.parametrize(
    "uri", ["sqlite:////a/b.db", "http://localhost:5000", "postgresql://me@host:5432/db", "a: b@c"]
)
def test_anything_else_stays(uri: str) -> None:
    assert redact(uri) == uri
    assert not has_password(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *("sqlite:///mlflow.db", "sqlite:////data/mlflow.db", "http://127.0.0.1:5000"),
        *("https://me:pw@mlflow.example", "postgresql://me@db.example/mlflow"),
        *("mysql+pymysql://db.example/mlflow", "databricks", "databricks://profile"),
    ],
)
def test_places_of_runs(uri: str) -> None:
    assert tracking_problem(uri) is None


@pytest.mark.parametrize(
    "uri",
    [
        *("file://./mlruns", "file:///data/mlruns", "file:mlruns", "./mlruns", "mlruns", ""),
        *("sqlite:///:memory:", "sqlite://", "s3://bucket/mlruns", "mlflow.example:5000"),
    ],
)
def test_file_uri_and_other_places_that_hold_no_runs_are_refused_at_their_line(
    write_study: WriteStudy, uri: str
) -> None:
    path = write_study(tracking={"uri": uri})
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    [problem] = caught.value.problems
    assert (problem.path, problem.line is not None) == ("tracking.uri", True)
    assert f"found {uri!r}" in problem.message
