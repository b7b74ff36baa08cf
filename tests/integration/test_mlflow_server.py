"""A study that an MLflow server records, over HTTP, which goes away in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.support.study_folders import outcomes
from tests.support.whole_studies import wait_beside

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


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """The lines of its output up to the one that holds ``text``."""
    told = []
    assert process.stdout is not None
    for line in process.stdout:
        told.append(line)
        if text in line:
            break
    return told


@dataclass(frozen=True)
class Served:
    """A study that MLflow's server records."""

    study: Path
    server: Path
    port: int

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> subprocess.Popen[str]:
        """``sweeper run``."""
        command = [sys.executable, "-m", "sweeper", "run", "study.yaml", "--cache-dir", "cache"]
        return subprocess.Popen(
            command,
            cwd=self.study.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start_and_take_the_server_away(self) -> tuple[subprocess.Popen[str], list[str]]:
        """``sweeper run`` that has begun its first trial and waits; with what it said."""
        with serving(self.server, self.port):
            process = self.start()
            spec = self.study.parent / "runs" / "tiny" / "arms" / "gkd" / "0000" / "spec.json"
            wait_beside(process, spec.exists)
        return process, read_until(process, "does not answer")

    def check_runs(self) -> None:
        """Every trial is there once and finished, and so is the report."""
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("tiny")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id])
        trials = [run for run in found if "sweeper.trial" in run.data.tags]
        named = sorted(
            f"{run.data.tags['sweeper.arm']}/{int(run.data.tags['sweeper.trial']):04d}"
            for run in trials
        )
        assert named == sorted(outcomes(self.study.parent))
        assert {run.info.status for run in trials} == {"FINISHED"}
        report = next(run for run in found if run.data.tags["sweeper.kind"] == "study")
        assert client.list_artifacts(report.info.run_id)


@pytest.fixture
def served(write_study: Callable[..., Path], tmp_path: Path) -> Served:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = tmp_path / "server"
    place.mkdir()
    study = write_study(trials=2, tracking={"uri": f"http://127.0.0.1:{port}"})
    return Served(study, place, port)


def test_an_mlflow_server_that_restarts_in_the_middle_of_a_study_loses_nothing(
    served: Served,
) -> None:
    process, told = served.start_and_take_the_server_away()
    with serving(served.server, served.port):
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert "answers again" in out, (told, out)
        served.check_runs()


def test_a_study_that_waits_for_its_server_can_be_stopped_and_goes_on_later(
    served: Served,
) -> None:
    process, told = served.start_and_take_the_server_away()
    process.send_signal(signal.SIGINT)
    told += read_until(process, "Ctrl-C again")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (told, out, err)
    assert "Traceback" not in out + err
    with serving(served.server, served.port):
        again = served.start()
        out, err = again.communicate(timeout=240)
        assert again.returncode == 0, (out, err)
        served.check_runs()
