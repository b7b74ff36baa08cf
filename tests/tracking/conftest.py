"""Databases with MLflow's tables, to be copied by each test of tracking."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.postgres import Server


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables, to copy."""
    from sweeper.tracking.mlflow_store import connect

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def empty_postgres(postgres_server: Server) -> str:
    """A PostgreSQL database with MLflow's tables, to copy."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    from sweeper.foundation.databases import with_driver
    from sweeper.tracking.mlflow_store import connect

    url = postgres_server.database()
    connect(with_driver(url))
    # A database in use cannot be copied.
    SqlAlchemyStore._engine_map.pop(with_driver(url)).dispose()
    return url.rpartition("/")[2]
