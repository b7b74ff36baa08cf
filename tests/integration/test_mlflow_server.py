"""A study that an MLflow server records, over HTTP, which goes away in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.integration.test_study import outcomes
from tests.whole_studies import wait_beside

pytestmark = [pytest.mark.slow, pytest.mark.soak]


@contextmanager
def serving(directory: Path, port: int) -> Iterator[None]:
    """MLflow's server; it answers from here on, and is gone afterwards."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{directory}/mlflow.db"]
    command += ["--artifacts-destination", str(directory / "artifacts")]
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    log = directory / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, start_new_session=True, text=True
        )
    try:
        wait_beside(server, lambda: "Application startup complete" in log.read_text())
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_an_mlflow_server_that_restarts_in_the_middle_of_a_study_loses_nothing(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = tmp_path / "server"
    place.mkdir()
    uri = f"http://127.0.0.1:{port}"
    study = write_study(trials=2, tracking={"uri": uri})
    command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--cache-dir", "cache"]
    with serving(place, port):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        spec = tmp_path / "runs" / "tiny" / "arms" / "gkd" / "0000" / "spec.json"
        wait_beside(process, spec.exists)
    told = []
    assert process.stdout is not None
    for line in process.stdout:
        told.append(line)
        if "does not answer" in line:
            break
    with serving(place, port):
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert "answers again" in out, (told, out)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("tiny")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id])
        trials = [run for run in found if "sweeper.trial" in run.data.tags]
        named = sorted(
            f"{run.data.tags['sweeper.arm']}/{int(run.data.tags['sweeper.trial']):04d}"
            for run in trials
        )
        assert named == sorted(outcomes(study.parent))
        assert {run.info.status for run in trials} == {"FINISHED"}
        report = next(run for run in found if run.data.tags["sweeper.kind"] == "study")
        assert client.list_artifacts(report.info.run_id)
