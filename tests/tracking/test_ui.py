from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sweeper.tracking.ui import experiment_url, ui_command, ui_environment
from tests.support.tracking_examples import (
    completed,
    free_port,
    job_files,
    mlflow_place,
    opened,
    trial_spec,
)


def test_the_server_listens_on_this_machine_only(tmp_path: Path) -> None:
    command = ui_command("sqlite:////runs/mlflow.db", str(tmp_path), 5001)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options == {
        "--host": "127.0.0.1",
        "--port": "5001",
        "--workers": "1",
        "--backend-store-uri": "sqlite:////runs/mlflow.db",
        "--artifacts-destination": tmp_path.as_uri(),
    }
    assert "MLFLOW_BACKEND_STORE_URI" not in ui_environment("sqlite:////runs/mlflow.db")


def test_a_password_is_no_argument() -> None:
    uri = "postgresql://me:pw@host/db"
    assert "pw" not in " ".join(ui_command(uri, None, 5001))
    assert ui_environment(uri)["MLFLOW_BACKEND_STORE_URI"] == uri


def test_a_server_needs_no_other_one() -> None:
    with pytest.raises(ValueError, match="needs no other one"):
        ui_command("http://host:5000", None, 5001)


def test_without_the_experiment_the_start_page_is_opened(empty_database: Path) -> None:
    url = experiment_url(f"sqlite:///{empty_database}", "digits", "digits", 5001)
    assert url == "http://127.0.0.1:5001/"


@pytest.mark.slow
def test_the_pages_show_a_study(tmp_path: Path, empty_database: Path) -> None:
    opened(mlflow_place(tmp_path, empty_database)).finish_trial(
        trial_spec(), completed(), job_files(tmp_path)
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    port = free_port()
    server = subprocess.Popen(
        ui_command(uri, str(tmp_path / "artifacts"), port),
        env={**os.environ, **ui_environment(uri)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def fetch(path: str, body: dict[str, Any] | None = None) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
            assert isinstance(content, bytes)
            return content

    try:
        assert server.stdout is not None
        assert any("Uvicorn running on" in line for line in server.stdout)
        assert fetch("/health") == b"OK"
        url = experiment_url(uri, "digits", "digits", port)
        page, place = url.split("#")
        assert page == f"http://127.0.0.1:{port}/"
        assert b"<html" in fetch("/")
        experiment, query = place.removeprefix("/experiments/").split("/runs?")
        (shown,) = urllib.parse.parse_qs(query)["searchFilter"]
        found = fetch(
            "/ajax-api/2.0/mlflow/runs/search", {"experiment_ids": [experiment], "filter": shown}
        )
        (run,) = json.loads(found)["runs"]
        assert run["info"]["run_name"] == "gkd #0"
        run_id = run["info"]["run_id"]
        assert fetch(f"/get-artifact?path=log.txt&run_uuid={run_id}") == b"it ran\n"
    finally:
        server.terminate()
        server.communicate(timeout=60)
